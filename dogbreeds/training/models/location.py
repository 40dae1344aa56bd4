"""Where a model must be, as far as that is known without the libraries that know all names."""

from pathlib import Path

from dogbreeds.errors import UserError
from dogbreeds.hub import HubId
from dogbreeds.run_folder import CONFIG


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
