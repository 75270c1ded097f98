"""The papers and repositories that presets are from, as facts for a bibliography."""

from dataclasses import dataclass

from rollout.text import Json

__all__ = [
    "CAUSAL_FORCING",
    "CAUSAL_FORCING_PLUS",
    "CAUSVID",
    "DEEP_FORCING",
    "DUMMY_FORCING",
    "INFINITE_FORCING",
    "INFINITY_ROPE",
    "LOL",
    "LONGLIVE",
    "MEMROPE",
    "REWARD_FORCING",
    "ROLLING_FORCING",
    "ROLLING_SINK",
    "SELF_FORCING",
    "Paper",
]


@dataclass(frozen=True)
class Paper:
    """A paper, or a repository without one: its BibTeX key, title, year, authors ("Family, Given"), arXiv number, address.

    Authors who are not known are left out.
    """

    key: str
    title: str
    year: int
    authors: tuple[str, ...] = ()
    arxiv: str = ""
    url: str = ""

    @property
    def address(self) -> str:
        """Where it is read."""
        return self.url or f"https://arxiv.org/abs/{self.arxiv}"

    def bibtex(self) -> str:
        """Its BibTeX entry."""
        fields = {"title": f"{{{self.title}}}", "author": " and ".join(self.authors), "year": str(self.year)}
        if self.arxiv:
            fields |= {"eprint": self.arxiv, "archivePrefix": "arXiv"}
        fields["url"] = self.address
        lines = [f"  {name} = {{{value}}}" for name, value in fields.items() if value]
        return f"@misc{{{self.key},\n" + ",\n".join(lines) + "\n}"

    def to_dict(self) -> Json:
        """As JSON; what is not known is left out."""
        data = {"key": self.key, "title": self.title, "authors": list(self.authors), "year": self.year}
        return {name: value for name, value in (data | {"arxiv": self.arxiv, "url": self.address}).items() if value}


SELF_FORCING = Paper(
    "huang2025selfforcing",
    "Self Forcing: Bridging the Train-Test Gap in Autoregressive Video Diffusion",
    2025,
    ("Huang, Xun", "Li, Zhengqi", "He, Guande", "Zhou, Mingyuan", "Shechtman, Eli"),
    "2506.08009",
)
CAUSVID = Paper(
    "yin2024causvid",
    "From Slow Bidirectional to Fast Autoregressive Video Diffusion Models",
    2024,
    (
        "Yin, Tianwei",
        "Zhang, Qiang",
        "Zhang, Richard",
        "Freeman, William T.",
        "Durand, Fredo",
        "Shechtman, Eli",
        "Huang, Xun",
    ),
    "2412.07772",
)
INFINITE_FORCING = Paper(
    "infiniteforcing2025",
    "Infinite-Forcing: Towards Infinite-Long Video Generation",
    2025,
    url="https://github.com/SOTAMak1r/Infinite-Forcing",
)
LONGLIVE = Paper(
    "yang2025longlive",
    "LongLive: Real-time Interactive Long Video Generation",
    2025,
    (
        "Yang, Shuai",
        "Huang, Wei",
        "Chu, Ruihang",
        "Xiao, Yicheng",
        "Zhao, Yuyang",
        "Wang, Xianbang",
        "Li, Muyang",
        "Xie, Enze",
        "Chen, Yingcong",
        "Lu, Yao",
        "Han, Song",
        "Chen, Yukang",
    ),
    "2509.22622",
)
INFINITY_ROPE = Paper(
    "yesiltepe2025infinityrope",
    "Infinity-RoPE: Action-Controllable Infinite Video Generation Emerges From Autoregressive Self-Rollout",
    2025,
    ("Yesiltepe, Hidir", "Meral, Tuna Han Salih", "Akan, Adil Kaan", "Oktay, Kaan", "Yanardag, Pinar"),
    "2511.20649",
)
MEMROPE = Paper(
    "kim2026memrope",
    "MemRoPE: Training-Free Infinite Video Generation via Evolving Memory Tokens",
    2026,
    ("Kim, Youngrae", "Hu, Qixin", "Kuo, C.-C. Jay", "Beerel, Peter A."),
    "2603.12513",
)
DEEP_FORCING = Paper(
    "yi2025deepforcing",
    "Deep Forcing: Training-Free Long Video Generation with Deep Sink and Participative Compression",
    2025,
    ("Yi, Jung", "Jang, Wooseok", "Cho, Paul Hyunbin", "Nam, Jisu", "Yoon, Heeji", "Kim, Seungryong"),
    "2512.05081",
)
ROLLING_FORCING = Paper(
    "liu2025rollingforcing",
    "Rolling Forcing: Autoregressive Long Video Diffusion in Real Time",
    2025,
    ("Liu, Kunhao", "Hu, Wenbo", "Xu, Jiale", "Shan, Ying", "Lu, Shijian"),
    "2509.25161",
)
REWARD_FORCING = Paper(
    "lu2025rewardforcing",
    "Reward Forcing: Efficient Streaming Video Generation with Rewarded Distribution Matching Distillation",
    2025,
    (
        "Lu, Yunhong",
        "Zeng, Yanhong",
        "Li, Haobo",
        "Ouyang, Hao",
        "Wang, Qiuyu",
        "Cheng, Ka Leong",
        "Zhu, Jiapeng",
        "Cao, Hengyuan",
        "Zhang, Zhipeng",
        "Zhu, Xing",
        "Shen, Yujun",
        "Zhang, Min",
    ),
    "2512.04678",
)
ROLLING_SINK = Paper(
    "li2026rollingsink",
    "Rolling Sink: Bridging Limited-Horizon Training and Open-Ended Testing in Autoregressive Video Diffusion",
    2026,
    ("Li, Haodong", "Liu, Shaoteng", "Lin, Zhe", "Chandraker, Manmohan"),
    "2602.07775",
)
DUMMY_FORCING = Paper(
    "guo2026dummyhead",
    "Efficient Autoregressive Video Diffusion with Dummy Head",
    2026,
    (
        "Guo, Hang",
        "Jia, Zhaoyang",
        "Li, Jiahao",
        "Li, Bin",
        "Cai, Yuanhao",
        "Wang, Jiangshan",
        "Li, Yawei",
        "Lu, Yan",
    ),
    "2601.20499",
)
CAUSAL_FORCING = Paper(
    "zhu2026causalforcing",
    "Causal Forcing: Autoregressive Diffusion Distillation Done Right for High-Quality Real-Time Interactive Video Generation",
    2026,
    ("Zhu, Hongzhou", "Zhao, Min", "He, Guande", "Su, Hang", "Li, Chongxuan", "Zhu, Jun"),
    "2602.02214",
)
CAUSAL_FORCING_PLUS = Paper(
    "zhao2026causalforcing",
    "Causal Forcing++: Scalable Few-Step Autoregressive Diffusion Distillation for Real-Time Interactive Video Generation",
    2026,
    (
        "Zhao, Min",
        "Zhu, Hongzhou",
        "Zheng, Kaiwen",
        "Zhou, Zihan",
        "Yan, Bokai",
        "Li, Xinyuan",
        "Yang, Xiao",
        "Li, Chongxuan",
        "Zhu, Jun",
    ),
    "2605.15141",
)
LOL = Paper(
    "cui2026lol",
    "LoL: Longer than Longer, Scaling Video Generation to Hour",
    2026,
    (
        "Cui, Justin",
        "Wu, Jie",
        "Li, Ming",
        "Yang, Tao",
        "Li, Xiaojie",
        "Wang, Rui",
        "Bai, Andrew",
        "Ban, Yuanhao",
        "Hsieh, Cho-Jui",
    ),
    "2601.16914",
)
