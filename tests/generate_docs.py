"""Write the parts of dogbreeds/docs that are lists of what the code has: options, models, modules.

    PYTHONPATH=. python tests/generate_docs.py

Each part stands between two HTML comments and is replaced; the text around it is written by hand.
"""

import ast
import dataclasses
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "dogbreeds" / "docs"

GROUP_TITLES = {
    "data": "Data",
    "preprocessing": "Pre-processing",
    "augment": "Random views",
    "model": "Model",
    "optim": "Optimisation",
    "run": "Run",
}
LAYOUT = (
    ("Command lines", ("cli", "training_script")),
    ("`research/`: what the models are worth", ("research",)),
    ("`training/`: labelled photos to run folders", ("training",)),
    ("`serving/`: run folders to answers, without torch", ("serving",)),
    ("What both share", ()),
)
"""The parts of the package from the highest to the lowest; the last has all modules that are in no other."""


def option_list() -> str:
    """Every option with its default, its range and its help, in groups."""
    from dogbreeds.training.options import GROUPS, OPTIONS

    lines = []
    for group in GROUPS:
        lines += [f"### {GROUP_TITLES[group]}", ""]
        for option in OPTIONS.values():
            if option.group == group:
                flag = option.name.replace("_", "-")
                flags = f"`--{flag}`, `--no-{flag}`" if option.type is bool else f"`--{flag}`"
                notes = "; ".join(filter(None, (_allowed(option.must_be), _default(option))))
                lines.append(f"- {flags}{f' ({notes})' if notes else ''}: {option.description}")
        lines.append("")
    return "\n".join(lines).strip()


def _allowed(must_be: str) -> str:
    return "" if must_be == "true or false" or "a text in quotes" in must_be else must_be


def _default(option) -> str:
    from dogbreeds.training.presets import SCRIPTS

    def shown(value) -> str:
        if isinstance(value, bool):
            return "on" if value else "off"
        if isinstance(value, tuple):
            return f"`{' '.join(map(str, value))}`"
        return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"

    of_scripts = {script: preset.get(option.name, option.default) for script, preset in SCRIPTS.items()}
    if len(set(of_scripts.values())) > 1:
        return "default " + ", ".join(f"{shown(value)} in {script}" for script, value in of_scripts.items())
    if option.default in (None, (), dataclasses.MISSING):
        return ""
    return f"default {shown(option.default)}"


def model_tables() -> str:
    """Every name that `--model` takes."""
    from dogbreeds.training.models.registry import ARCHITECTURES, CHECKPOINTS

    return "\n".join(
        [
            "Pre-trained checkpoints of the Hugging Face Hub:",
            "",
            "| `--model` | checkpoint |",
            "| --- | --- |",
            *(f"| `{name}` | [{source}](https://huggingface.co/{source}) |" for name, source in CHECKPOINTS.items()),
            "",
            "Architectures that are built with random weights:",
            "",
            "| `--model` | architecture |",
            "| --- | --- |",
            *(f"| `{name}` | {_architecture(build(image_size=224))} |" for name, build in ARCHITECTURES.items()),
        ]
    )


def _architecture(config) -> str:
    if config.model_type == "convnet":
        layers = ", ".join(map(str, config.filters))
        dense = f", dense layers of {', '.join(map(str, config.hidden_sizes))}" if config.hidden_sizes else ""
        return f"plain CNN: convolutions with {layers} filters{dense}"
    if config.model_type == "vit":
        size = f"{config.num_hidden_layers} layers of width {config.hidden_size}"
        return f"ViT: {size}, {config.num_attention_heads} heads, patches of {config.patch_size} pixels"
    if config.model_type == "timm_wrapper":
        return f"`{config.architecture}` of timm"
    return f"{config.model_type} of transformers, width x {config.depth_multiplier:g}"


def layout() -> str:
    """Every module with the first line of its docstring."""
    package = ROOT / "dogbreeds"
    named = {top for _, tops in LAYOUT for top in tops}
    lines = []
    for title, tops in LAYOUT:
        lines += [f"### {title}", ""]
        for file in sorted(package.rglob("*.py"), key=lambda file: (len(file.parts), file)):
            name = file.relative_to(package)
            top = name.parts[0].removesuffix(".py")
            if not name.name.startswith("__") and (top in tops or (not tops and top not in named)):
                lines.append(f"- `{name.as_posix()}`: {_summary(file)}")
        lines.append("")
    return "\n".join(lines).strip()


def _summary(file: Path) -> str:
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split("\n")[0]


GENERATED = {
    "training.md": {"options": option_list, "models": model_tables},
    "contributing.md": {"layout": layout},
}
"""The parts of each file, and what writes them."""


def with_generated_parts(name: str) -> str:
    """The text of a file of `GENERATED`, as it should be."""
    text = (DOCS / name).read_text(encoding="utf-8")
    for part, write in GENERATED[name].items():
        start, end = f"<!-- generated: {part} -->\n", "<!-- end of generated -->"
        before, found, rest = text.partition(start)
        assert found, f"{name} has no line {start.strip()!r}"
        text = f"{before}{start}\n{write()}\n\n{end}{rest.partition(end)[2]}"
    return text


if __name__ == "__main__":
    for changed in GENERATED:
        (DOCS / changed).write_text(with_generated_parts(changed), encoding="utf-8")
