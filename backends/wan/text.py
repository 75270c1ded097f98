"""UMT5 prompt embeddings as released: cleaned by ftfy, 512 tokens, zero padding that is attended; cached on disk."""

import hashlib
import html
import os
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rollout.backends.wan.checks import check_finite, check_report, finite, quiet
from rollout.backends.wan.kinds import check_files
from rollout.devices import free_bytes
from rollout.errors import BackendError, OutputError
from rollout.files import fingerprint, write_whole
from rollout.text import cause

__all__ = ["TOKENS", "TextEncoder", "clean"]

TOKENS = 512


def clean(prompt: str) -> str:
    """The released code's cleaning: ftfy, HTML entities twice, single spaces."""
    try:
        import ftfy
    except ImportError:
        raise BackendError("the backend 'wan' needs ftfy to clean prompts. Install rollout-video[wan].") from None
    return re.sub(r"\s+", " ", html.unescape(html.unescape(ftfy.fix_text(prompt)))).strip()


class TextEncoder:
    """Embeddings (1, 512, dim) of prompts; the encoder is loaded for new ones and freed by `free`."""

    def __init__(self, folder: Path, *, device: torch.device, dtype: torch.dtype, store: Path | None = None) -> None:
        self.folder, self.device, self.dtype = folder, device, dtype
        self.store = store or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rollout" / "text"
        self._identity = ""
        self._loaded: tuple[Any, Any] | None = None

    def encode(self, prompt: str) -> Tensor:
        """The embedding of a prompt, from the disk's cache where it is there. Raises BackendError."""
        text = clean(prompt)
        path = self.store / f"{self._key(text)}.safetensors"
        if path.is_file():
            try:
                features: Tensor = load_file(path)["embedding"]
                if finite(features):
                    return features.to(self.device, self.dtype)
            except (SafetensorError, OSError, KeyError):
                pass
            path.unlink(missing_ok=True)
        embedding = self._compute(text)
        if not finite(embedding):
            raise BackendError(
                f"the text encoder of {self.folder} gives numbers that are not finite as {self.dtype}. Use --dtype bfloat16 or "
                "float32."
            )
        try:
            self.store.mkdir(parents=True, exist_ok=True)
            write_whole(path, lambda partial: save_file({"embedding": embedding.float().cpu()}, partial))
        except (OSError, OutputError):
            pass  # a cache that cannot be written costs time, not the result
        return embedding.to(self.device, self.dtype)

    def free(self) -> None:
        """Give the encoder's memory back."""
        self._loaded = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _key(self, text: str) -> str:
        """Of the text, the encoder's files and dtype, and who reads them."""
        if not self._identity:
            files = [file for part in ("text_encoder", "tokenizer") for file in (self.folder / part).glob("*")]
            self._identity = f"{self.dtype} {fingerprint(files)} transformers {version('transformers')}"
        return hashlib.sha256(f"{self._identity}\n{TOKENS}\n{text}".encode()).hexdigest()[:32]

    @torch.no_grad()
    def _compute(self, text: str) -> Tensor:
        if self._loaded is None:
            self._loaded = self._load()
        tokenizer, model = self._loaded
        tokens = tokenizer(
            [text],
            padding="max_length",
            max_length=TOKENS,
            truncation=True,
            add_special_tokens=True,
            return_tensors="pt",
        )
        ids, mask = tokens.input_ids.to(model.device), tokens.attention_mask.to(model.device)
        embedding: Tensor = model(ids, mask).last_hidden_state * mask[..., None]
        return embedding  # with zeros as padding, which the transformer attends to as it was trained to

    def _load(self) -> tuple[Any, Any]:
        from transformers import AutoTokenizer, UMT5EncoderModel
        from transformers.utils import logging

        logging.disable_progress_bar()
        for part in ("text_encoder", "tokenizer"):
            if not (self.folder / part).is_dir():
                raise BackendError(f"{self.folder} has no {part}. Give a whole Wan 2.1 folder in diffusers' format.")
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.folder / "tokenizer", local_files_only=True)
            with quiet(logging):
                model, report = UMT5EncoderModel.from_pretrained(
                    self.folder / "text_encoder",
                    dtype=self.dtype,
                    local_files_only=True,
                    use_safetensors=True,
                    output_loading_info=True,
                )
        except Exception as error:  # whatever a config or a file makes a library raise
            for part in ("tokenizer", "text_encoder"):
                check_files(self.folder / part)
            raise BackendError(f"the text encoder of {self.folder} cannot be loaded: {cause(error)}") from error
        check_report("text encoder", self.folder, report)
        model = model.to(self._place(model)).eval()
        check_finite("text encoder", self.folder, model)
        return tokenizer, model

    def _place(self, model: Any) -> torch.device:
        """The device, or the CPU where the encoder does not fit beside what is there."""
        free = free_bytes(self.device)
        need = sum(p.numel() * p.element_size() for p in model.parameters())
        return self.device if free is None or need < free else torch.device("cpu")
