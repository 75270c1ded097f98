"""A hook of MkDocs: pages that are made as the site is built. README and the like, and one for every public name."""

import ast
import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

import rollout

__all__ = [
    "ELSEWHERE",
    "defined",
    "defined_together",
    "module_page",
    "modules",
    "on_files",
    "on_page_markdown",
    "public_names",
]

ROOT = Path(__file__).parent.parent
ELSEWHERE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/RESULTS.md": "results.md",
    "backends/sprites/MODEL_CARD.md": "model-card.md",
}
"""Pages of the repository that lie outside docs/, each with its name on the site."""


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie elsewhere, and the reference.

    A page a name that `from rollout import NAME` gives, and a page a module for the rest of what its `__all__` says.
    """
    pages = {name: (ROOT / path).read_text(encoding="utf-8") for path, name in ELSEWHERE.items()}
    where = rollout._WHERE
    pages |= {f"reference/{name}.md": f"# {name}\n\n::: {module}.{name}\n" for name, module in where.items()}
    pages |= {f"reference/modules/{name}.md": module_page(name, path) for name, path in modules().items()}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links as the site has them: it is flat where the repository has folders. The table of names links to their pages."""
    source = page.file.src_uri
    if source.startswith("reference/"):
        return markdown
    home = next((Path(path).parent for path, name in ELSEWHERE.items() if name == source), Path("docs"))
    if source == "api.md":
        markdown = re.sub(r"^\| `(\w+)(.*?)` \|", r"| [`\1\2`](reference/\1.md) |", markdown, flags=re.M)

    def moved(match: re.Match[str]) -> str:
        target, hash_mark, anchor = match[1].partition("#")
        path = (ROOT / home / target).resolve().relative_to(ROOT).as_posix()
        return f"]({ELSEWHERE.get(path, path.removeprefix('docs/'))}{hash_mark}{anchor})"

    return re.sub(r"\]\((?!https?:|#|reference/)([^)\s]+)\)", moved, markdown)


def modules() -> dict[str, Path]:
    """The files of the core, the strategies and the backends, whose `__all__` is all that they define, by module."""
    paths: dict[str, Path] = {}
    for folder, package in (("rollout", ()), ("strategies", ("strategies",)), ("backends", ("backends",))):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            if parts[-1] != "__main__":
                paths[".".join(("rollout", *package, *(part for part in parts if part != "__init__")))] = path
    return paths


def module_page(name: str, path: Path) -> str:
    """A module's docstring and what it defines; what has a page of its own is linked to."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    public = public_names(tree)
    own_pages = [member for member in public if rollout._WHERE.get(member) == name]
    together = {member: text for member, text in defined_together(tree).items() if member in public}
    rest = [member for member in public if member in defined(tree) and member not in (*own_pages, *together)]
    parts = [f"# {name}", f"::: {name}\n    options:\n      members: {json.dumps(rest) if rest else 'false'}"]
    parts += [f'<a id="{name}.{member}"></a>`{text}`' for member, text in together.items()]
    links = ", ".join(f"[{member}](../{member}.md)" for member in own_pages)
    return "\n\n".join([*parts, f"Pages of their own: {links}." if links else ""])


def public_names(tree: ast.Module) -> list[str]:
    """The names of a module's `__all__`."""
    for node in tree.body:
        if (
            isinstance(node, ast.Assign)
            and ast.unparse(node.targets[0]) == "__all__"
            and isinstance(node.value, ast.List)
        ):
            return [str(item.value) for item in node.value.elts if isinstance(item, ast.Constant)]
    return []


def defined(tree: ast.Module) -> set[str]:
    """The names that a module defines itself, and has not from another."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def defined_together(tree: ast.Module) -> dict[str, str]:
    """Constants of one line such as `DAY, NIGHT = 0, 1`, which the docstrings' reader passes over, each with that line."""
    return {
        leaf.id: ast.unparse(node)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple)
        for leaf in node.targets[0].elts
        if isinstance(leaf, ast.Name)
    }
