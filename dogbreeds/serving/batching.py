"""Photos of people who ask at the same time, answered together."""

import threading
from concurrent.futures import Future

from PIL import Image

from dogbreeds.serving.predictor import Prediction, Predictor

MAX_BATCH_SIZE = 8
"""Photos in one forward pass."""


class BatchingPredictor:
    """Answers one photo for each caller; photos that come while others are being answered go through the model as one.

    A single caller waits for nobody: whoever comes first computes, with all who are waiting by then.
    """

    def __init__(self, predictor: Predictor, *, top_k: int) -> None:
        self.run = predictor.run
        self._predictor, self._top_k = predictor, top_k
        self._waiting: list[tuple[Image.Image, Future[Prediction]]] = []
        self._changing, self._computing = threading.Lock(), threading.Lock()

    def predict(self, photo: Image.Image) -> Prediction:
        """Answer an upright RGB photo; to be called from several threads."""
        mine: Future[Prediction] = Future()
        with self._changing:
            self._waiting.append((photo, mine))
        while not mine.done():
            with self._computing:
                if not mine.done():
                    self._compute()
        return mine.result()

    def _compute(self) -> None:
        with self._changing:
            batch, self._waiting = self._waiting[:MAX_BATCH_SIZE], self._waiting[MAX_BATCH_SIZE:]
        try:
            predictions = self._predictor.predict_together([photo for photo, _ in batch], top_k=self._top_k)
        except BaseException as error:
            for _, future in batch:
                future.set_exception(error)
        else:
            for (_, future), prediction in zip(batch, predictions, strict=True):
                future.set_result(prediction)
