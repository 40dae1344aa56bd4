"""From logits to an answer for a person: a breed, one of a few look-alikes, or none of the breeds."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, get_args

import numpy as np

from dogbreeds.breeds import group_of
from dogbreeds.calibration import MAX_CANDIDATES, Calibration, Outputs, Verdict

NUM_RESEMBLED = 3
"""How many breeds a dog of an unknown breed is said to resemble."""


@dataclass(frozen=True)
class BreedProbability:
    """One candidate."""

    breed: str
    probability: float
    """Calibrated, 0..1."""


@dataclass(frozen=True)
class Answer:
    """The answer to one photo."""

    verdict: Verdict
    breeds: tuple[BreedProbability, ...]
    """The most probable breeds, best first; as many as were asked for."""
    candidates: tuple[BreedProbability, ...]
    """Where the verdict is `unsure`, the breeds that the dog is probably one of, best first; where it is
    `unknown_breed`, those that it resembles."""
    group: str | None
    """Where the verdict is `unsure`, the breed group that the dog belongs to, if that is as sure as the breed is in a
    `confident` answer; a key of `dogbreeds.breeds.breed_groups`."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON. A dog of an unknown breed has no probabilities: it is none of these breeds."""
        breeds = () if self.verdict == "unknown_breed" else self.breeds
        return {
            "verdict": self.verdict,
            "breeds": [{"breed": each.breed, "probability": each.probability} for each in breeds],
            "candidates": [each.breed for each in self.candidates],
            "group": self.group,
        }


NO_ANSWER: dict[str, Any] = {"verdict": None, "breeds": [], "candidates": [], "group": None}
"""The JSON of an answer to a photo that could not be read; see `Answer.to_dict`."""


def answers(
    outputs: Outputs,
    calibration: Calibration,
    labels: Sequence[str],
    *,
    top_k: int = 5,
    listed: np.ndarray | None = None,
) -> list[Answer]:
    """The answer to each photo.

    Args:
        outputs: Of N photos.
        calibration: The run's.
        labels: The name of each class.
        top_k: How many breeds to name, at least 1.
        listed: As for `Calibration.apply`.
    """
    return answers_of(*calibration.apply(outputs, listed), calibration, labels, top_k=top_k)


def answers_of(
    probabilities: np.ndarray,
    verdicts: Sequence[Verdict],
    calibration: Calibration,
    labels: Sequence[str],
    *,
    top_k: int = 5,
) -> list[Answer]:
    """The answers to photos of which `Calibration.apply` is known.

    Args:
        probabilities: `(N, C)`, calibrated; breeds with 0 are not named.
        verdicts: The verdict on each photo.
        calibration: The run's.
        labels: The name of each class.
        top_k: How many breeds to name, at least 1.
    """
    groups = [group_of(label) for label in labels]
    found = []
    for row, verdict in zip(probabilities, verdicts, strict=True):
        order = np.argsort(-row, kind="stable")[: min(max(top_k, MAX_CANDIDATES), np.count_nonzero(row))]
        ranked = tuple(BreedProbability(labels[i], float(row[i])) for i in order)
        candidates: tuple[BreedProbability, ...] = ()
        group = None
        if verdict == "unsure":
            held = np.cumsum([candidate.probability for candidate in ranked])
            num_candidates = int((held < calibration.candidates_probability - 1e-9).sum()) + 1
            candidates = ranked[: min(num_candidates, MAX_CANDIDATES)]
            group = _sure_group(row, groups, calibration.confident_threshold)
        elif verdict == "unknown_breed":
            candidates = ranked[:NUM_RESEMBLED]
        found.append(Answer(verdict, ranked[:top_k], candidates, group))
    return found


def answer_rates(
    outputs: Outputs, truth: np.ndarray, calibration: Calibration, labels: Sequence[str]
) -> dict[str, float]:
    """How often each kind of answer is given to photos of dogs, and how often it is right.

    Args:
        outputs: Of N photos.
        truth: `(N,)`, the right classes.
        calibration: The run's.
        labels: The name of each class.

    Returns:
        `share_confident`, `share_unsure`, `share_unknown_breed`, `share_not_a_dog`: of all photos. `top1_confident`: of
        the confident answers, those with the right breed. `candidates_right`: of the unsure, those whose candidates
        hold the right breed. `share_group`: of the unsure, those that name a group; `group_right`: of these, those with
        the right one. A rate of no photos is left out.
    """
    given = list(zip(answers(outputs, calibration, labels), (labels[label] for label in truth), strict=True))
    of_verdict = {verdict: [pair for pair in given if pair[0].verdict == verdict] for verdict in get_args(Verdict)}
    rates = {f"share_{verdict}": len(pairs) / len(given) for verdict, pairs in of_verdict.items()}
    confident, unsure = of_verdict["confident"], of_verdict["unsure"]
    grouped = [pair for pair in unsure if pair[0].group]
    if confident:
        rates["top1_confident"] = fmean(answer.breeds[0].breed == name for answer, name in confident)
    if unsure:
        rates["candidates_right"] = fmean(
            name in [candidate.breed for candidate in answer.candidates] for answer, name in unsure
        )
        rates["share_group"] = len(grouped) / len(unsure)
    if grouped:
        rates["group_right"] = fmean(answer.group == group_of(name) for answer, name in grouped)
    return rates


def num_rated(figures: Mapping[str, float]) -> dict[str, int]:
    """Of how many photos each rate is a share.

    Args:
        figures: `n`, top-k accuracies and the `answer_rates` of the same photos.

    Returns:
        The number for each of the rates that is there.
    """
    n, unsure = figures["n"], figures["n"] * figures.get("share_unsure", 0)
    num = dict.fromkeys(("top1", "top3", "top5", *(f"share_{verdict}" for verdict in get_args(Verdict))), n)
    num["top1_confident"] = n * figures.get("share_confident", 0)
    num |= {"candidates_right": unsure, "share_group": unsure, "group_right": unsure * figures.get("share_group", 0)}
    return {name: round(of) for name, of in num.items() if name in figures}


def _sure_group(probabilities: np.ndarray, groups: Sequence[str | None], threshold: float) -> str | None:
    """The most probable breed group, if it is as probable as this."""
    totals: Counter[str] = Counter()
    for group, probability in zip(groups, probabilities.tolist(), strict=True):
        if group:
            totals[group] += probability
    return next((group for group, total in totals.most_common(1) if total >= threshold), None)
