"""Where a model must be, as far as that is known without PyTorch and the libraries that know all names."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from dogbreeds.errors import UserError, first_line
from dogbreeds.hub import HubId, announce
from dogbreeds.run_folder import CONFIG
from dogbreeds.training.models.registry import CHECKPOINTS


def check_model_is_there(model: str) -> None:
    """Refuse a path that is no model, in a moment; whether timm or the Hub has a name, `open_checkpoint` finds out.

    Args:
        model: As `--model`.

    Raises:
        UserError: It is a path and there is no such folder, or one without a model.
    """
    if "/" not in model:
        return
    if not Path(model).is_dir():
        if not HubId.parse(model):
            raise UserError(f"the model {model!r} is no folder here, and no id of the Hugging Face Hub (USER/NAME)")
    elif not (Path(model) / CONFIG).is_file():
        raise UserError(
            f"the folder {model!r} holds no image classifier: {CONFIG} is missing; give a folder that has it, and "
            "model.safetensors, with --model"
        )


def ask_hub(model: str) -> None:
    """Refuse a model of the Hub that the Hub does not give; one in the local cache is not asked for.

    That takes a moment, before seconds of importing PyTorch. The names of timm are looked up later, by timm itself.

    Args:
        model: As `--model`, after `check_model_is_there`.

    Raises:
        UserError: The Hub has no such model, or can't be reached.
    """
    source = CHECKPOINTS.get(model, model)
    if Path(source).is_dir() or not HubId.parse(source) or not find_spec("torch"):  # what is missing is told first
        return
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    with loading(source):
        if not isinstance(try_to_load_from_cache(source, CONFIG), str):
            announce(source)
            hf_hub_download(source, CONFIG)


@contextmanager
def loading(source: str) -> Iterator[None]:
    """Turn what loading a checkpoint raises into a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # transformers, safetensors and the Hub's client each raise their own
        if Path(source).is_dir():
            problem = f"the folder {source!r} holds no image classifier that transformers can load: {first_line(error)}"
        else:
            problem = (
                f"the model {source!r} is no folder here, and the Hugging Face Hub did not give it: connect to the "
                "network and run again, or give a folder with its config.json and model.safetensors with --model"
            )
        raise UserError(problem) from None
