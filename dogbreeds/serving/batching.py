"""Photos of several people who ask at the same time, answered in one forward pass."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future

from PIL import Image

from dogbreeds.serving.prediction import Prediction
from dogbreeds.serving.predictor import Predictor

MAX_BATCH_SIZE = 8
"""Photos in one forward pass."""


class BatchingPredictor:
    """Answers each caller's photos. Photos that arrive while others are being answered become one batch.

    A single caller waits for nobody: the first to arrive computes, with all who are waiting by then.
    """

    def __init__(self, predictor: Predictor, *, top_k: int) -> None:
        self._predictor, self._top_k = predictor, top_k
        self._waiting: list[tuple[Image.Image, Future[Prediction]]] = []
        self._waiting_lock, self._computing_lock = threading.Lock(), threading.Lock()

    def predict_images(self, images: Sequence[Image.Image]) -> list[Prediction]:
        """Answer upright RGB photos; may be called from several threads."""
        futures: list[Future[Prediction]] = [Future() for _ in images]
        with self._waiting_lock:
            self._waiting += zip(images, futures, strict=True)
        for future in futures:
            while not future.done():
                with self._computing_lock:
                    if not future.done():
                        self._compute()
        return [future.result() for future in futures]

    def _compute(self) -> None:
        with self._waiting_lock:
            batch, self._waiting = self._waiting[:MAX_BATCH_SIZE], self._waiting[MAX_BATCH_SIZE:]
        try:
            predictions = self._predictor.predict_images([photo for photo, _ in batch], top_k=self._top_k)
        except BaseException as error:
            for _, future in batch:
                future.set_exception(error)
        else:
            for (_, future), prediction in zip(batch, predictions, strict=True):
                future.set_result(prediction)
