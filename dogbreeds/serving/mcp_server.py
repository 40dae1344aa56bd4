"""The breed for assistants: a server of the Model Context Protocol (https://modelcontextprotocol.io).

It speaks over standard input and output with the program that has started it, and opens no connection. gradio's own MCP
server is not used: it takes addresses to fetch, and asks its own page without the access key.
"""

from pathlib import Path
from typing import Annotated, Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import Field

from dogbreeds.errors import UserError
from dogbreeds.images import BadImage
from dogbreeds.serving.api import PredictionJson, prediction_json
from dogbreeds.serving.model_set import TOP_K
from dogbreeds.serving.one_dog import predict_files
from dogbreeds.serving.predictor import Predictor

_INSTRUCTIONS = """Tells the breed of the dog on a photo, or of each dog. Say how sure an answer is; its verdict tells.
confident: the first breed. unsure: a dog of one of the candidates; the group, where there is one, is sure.
unknown_breed: a dog of a breed that is not known here, or a mix; it resembles the candidates.
not_a_dog: no dog was found. Probabilities are calibrated. Looks say little about a dog's descent or character."""
_PHOTO = "The path of an image or a video on this machine; a relative one starts at the folder that was named, if any."
_READS_ONLY = ToolAnnotations(read_only_hint=True, open_world_hint=False)


def mcp_server(predictor: Predictor, photos: Path | None = None) -> MCPServer[Any]:
    """Make a server with the tools `identify_breed` and `list_breeds`.

    Args:
        predictor: What answers.
        photos: The folder whose photos may be asked about; None for every file that this process can read.
    """
    server: MCPServer[Any] = MCPServer("dogbreeds", title="Dog breeds", instructions=_INSTRUCTIONS, log_level="WARNING")

    @server.tool(annotations=_READS_ONLY)
    def identify_breed(photo: Annotated[str, Field(description=_PHOTO)]) -> PredictionJson:
        """Tell the breed of the dog on a photo or in a short video; of several dogs on a photo, each one's."""
        return _prediction(predictor, _allowed(photo, photos))

    @server.tool(annotations=_READS_ONLY)
    def list_breeds() -> list[str]:
        """All breeds that an answer may name."""
        return list(predictor.run.listed or predictor.run.labels)

    return server


def _allowed(photo: str, folder: Path | None) -> str:
    try:
        path = (folder or Path()) / Path(photo).expanduser()
        resolved = path.resolve()
    except (ValueError, RuntimeError):
        raise ToolError(f"{photo!r} can't be the path of a file.") from None
    if folder and not resolved.is_relative_to(folder.resolve()):
        raise ToolError(f"{photo} is outside the folder {folder}, whose photos alone may be asked about.")
    return str(path)


def _prediction(predictor: Predictor, path: str) -> Any:
    try:
        ((_, found),) = predict_files(predictor, [path], top_k=TOP_K, one_dog=False)
    except UserError as error:
        raise ToolError(str(error)) from None
    if isinstance(found, BadImage):
        raise ToolError(str(found))
    return prediction_json(predictor.run.name, found)
