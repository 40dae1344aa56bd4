import json
import re
import shutil
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from conftest import ROOT, make_photo
from pydantic import TypeAdapter

from dogbreeds.answers import Answer, BreedProbability
from dogbreeds.calibration import softmax
from dogbreeds.errors import UserError
from dogbreeds.images import BadImage, Problem
from dogbreeds.run_folder import SHIPPED_RUNS, RunFolder
from dogbreeds.serving.api import ComparisonJson, comparison_json
from dogbreeds.serving.ensemble import Ensemble, model_hash, pool
from dogbreeds.serving.model_set import ModelAnswers, ModelSet, load_ensemble
from dogbreeds.serving.page import cards
from dogbreeds.serving.page.texts import ENGLISH, FRENCH, Texts, texts_for
from dogbreeds.serving.predictor import Prediction, Predictor

SHARES = {"Norfolk terrier": 0.5, "Norwich terrier": 0.3, "Cairn terrier": 0.15}
TERRIERS = tuple(BreedProbability(breed, probability) for breed, probability in SHARES.items())
UNSURE = Answer("unsure", TERRIERS, TERRIERS, "terrier")


def prediction(answer: Answer, probabilities=(1.0,)) -> Prediction:
    return Prediction(
        **vars(answer),
        probabilities=np.array(probabilities),
        heat_map=np.zeros((2, 2), np.float32),
        region=(0, 0, 1, 1),
        seconds=0.01,
    )


def answer_of(breed: str, probability: float, verdict="confident") -> Answer:
    return Answer(verdict, (BreedProbability(breed, probability),), (), None)


def test_an_unsure_answer_names_the_group_and_its_look_alikes():
    said = cards.headline(UNSURE, 120, ENGLISH)
    assert "Not sure" in said and "Probably a terrier." in said
    assert "Look-alikes: Norfolk terrier, Norwich terrier or Cairn terrier." in said
    said = cards.headline(Answer("unsure", TERRIERS, TERRIERS[:2], None), 120, FRENCH)
    assert "Pas sûr" in said and "Peut-être Norfolk terrier (50\u202f%)." in said
    assert "Norfolk terrier ou Norwich terrier" in said and "Probablement" not in said
    assert "Look-alikes" not in cards.headline(Answer("unsure", TERRIERS, TERRIERS[:1], None), 120, ENGLISH)


def test_the_kinds_of_answers_differ_in_words_and_signs():
    said = [
        cards.headline(answer_of("Pug", 0.9, verdict), 120, FRENCH) for verdict in ("confident", "not_a_dog")
    ] + [cards.headline(UNSURE, 120, FRENCH), cards.problem("Ce fichier est vide.", FRENCH)]  # fmt: skip
    assert "Carlin (90\u202f%)" in said[0] and "aucune de mes 120 races" in said[1]
    signs = [text.split('aria-hidden="true">')[1].split("<")[0] for text in said]
    assert len(set(signs)) == 4


def test_text_from_outside_is_escaped():
    evil = answer_of("<script>alert(1)</script>", 0.9)
    for said in (cards.headline(evil, 2, ENGLISH), cards.problem("<img onerror=x>", ENGLISH)):
        assert "<script" not in said and "<img" not in said


@pytest.mark.parametrize(
    ("header", "language"),
    [("fr-CH,fr;q=0.9,en;q=0.8", "fr"), ("en-US,en;q=0.9", "en"), ("de,fr;q=0.5", "en"), ("FR", "fr"), (None, "en")],
)
def test_the_browsers_language_is_spoken(header, language):
    assert texts_for(header).language == language


def test_both_languages_say_everything_and_fill_in_the_same():
    assert ENGLISH.sentences.keys() == FRENCH.sentences.keys()
    for name, english in ENGLISH.sentences.items():
        french = getattr(FRENCH, name)
        assert french.strip() and french.count("{") == english.count("{"), name
    assert FRENCH.problem(BadImage("This file is empty.", "empty")) == "Ce fichier est vide. Choisissez une photo."
    assert ENGLISH.problem(BadImage("This file is empty.", "empty")) == "This file is empty."
    for problem in get_args(Problem):
        assert FRENCH.problem(BadImage("{}", problem)) != "{}", problem
    assert "50 mégapixels" in FRENCH.problem(BadImage("This image is too large.", "too_large"))


def test_the_page_uses_every_sentence_and_no_other():
    code = "".join(file.read_text() for file in (ROOT / "dogbreeds/serving/page").glob("*.py"))
    used = {name for pair in re.findall(r"\btext\(\"(\w+)\"\)|\btexts\.(\w+)", code) for name in pair if name}
    made_from_others = {"heading", "waiting_html", "waiting_many_html", "about_all"}
    assert used - made_from_others - set(vars(Texts)) - {"language", "texts_for"} == set(ENGLISH.sentences)
    with pytest.raises(AttributeError, match="no sentence 'nothing'"):
        _ = ENGLISH.nothing


@pytest.mark.parametrize(
    ("texts", "fitted", "untouched"),
    [
        (
            ENGLISH,
            "held out from training, on which its thresholds were fitted",
            "on which nothing was fitted or chosen",
        ),
        (FRENCH, "sur lesquelles ses seuils ont été réglés", "sur lesquelles rien n'a été réglé ni choisi"),
    ],
)
def test_figures_of_test_photos_are_not_called_those_of_fitting(texts, fitted, untouched):
    run = RunFolder.open(SHIPPED_RUNS[0])
    validation = run.record.figures["validation"]
    said = cards.rates(run, "vit", texts)
    assert fitted in said and untouched not in said and str(validation["n"]) in said
    figures = {"validation": validation, "test": {**validation, "n": 77}}
    said = cards.rates(replace(run, record=replace(run.record, figures=figures)), "vit", texts)
    assert untouched in said and fitted not in said and "77" in said


def test_programs_get_what_is_described_to_them(tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "copy")
    predictors = [Predictor(tiny_run), Predictor(tmp_path / "copy")]
    models = tuple(model_hash(predictor.run) for predictor in predictors)
    page = ModelSet(predictors, Ensemble(models, (0.5, 0.5), 100, 90, (80, 85), confident_threshold=0.6))
    reply = comparison_json(page.compare(make_photo(2, 1)))
    described = TypeAdapter(ComparisonJson)
    assert described.dump_python(described.validate_json(json.dumps(reply), strict=True)) == reply
    assert reply["together"]["breeds"][0]["breed"] == "Beagle"


@pytest.mark.parametrize(
    ("answers", "agree"),
    [
        ([answer_of("Pug", 0.9), answer_of("Pug", 0.4, "unsure")], True),
        ([answer_of("Pug", 0.9), answer_of("Beagle", 0.4, "unsure")], False),
        ([answer_of("Pug", 0.9, "not_a_dog"), answer_of("Beagle", 0.4, "not_a_dog")], True),
        ([answer_of("Pug", 0.9), answer_of("Pug", 0.4, "not_a_dog")], False),
    ],
)
def test_models_agree_on_a_breed_or_on_none(answers, agree):
    assert ModelAnswers({str(i): prediction(answer) for i, answer in enumerate(answers)}, None).agree == agree


def test_an_ensemble_weighs_its_models_and_is_called_none_only_by_all():
    labels = ("Pug", "Beagle", "Boxer")
    ensemble = Ensemble(("a", "b"), (0.75, 0.25), 100, 90, (80, 85), confident_threshold=0.6)
    pug = prediction(answer_of("Pug", 0.8), (0.8, 0.1, 0.1))
    beagle = prediction(answer_of("Beagle", 0.9, "not_a_dog"), (0.05, 0.9, 0.05))
    said = ensemble.answer({"b": beagle, "a": pug}, labels, top_k=2)
    expected = np.array([0.8**0.75 * 0.05**0.25, 0.1**0.75 * 0.9**0.25, 0.1**0.75 * 0.05**0.25])
    expected /= expected.sum()
    assert [each.breed for each in said.breeds] == ["Pug", "Beagle"] and said.verdict == "confident"
    assert [each.probability for each in said.breeds] == pytest.approx(expected[:2])
    assert ensemble.answer({"a": beagle, "b": pug}, labels).breeds[0].breed == "Beagle"
    assert ensemble.answer({"a": beagle, "b": beagle}, labels).verdict == "not_a_dog"
    strict = Ensemble(("a", "b"), (0.75, 0.25), 100, 90, (80, 85), confident_threshold=0.9)
    assert strict.answer({"a": pug, "b": beagle}, labels).verdict == "unsure"


def noisy(labels: np.ndarray, noise: float, seed: int) -> np.ndarray:
    """Probabilities of a model that is wrong the more often, the more noise there is."""
    logits = np.random.default_rng(seed).normal(0, noise, (len(labels), 4))
    logits[np.arange(len(labels)), labels] += 2
    return softmax(logits)


def test_what_runs_reach_together_is_measured_kept_and_only_theirs(tiny_run, tmp_path):
    predictors = [Predictor(tiny_run), Predictor(tiny_run)]
    runs = [predictor.run for predictor in predictors]
    labels = np.arange(2000) % 4
    good, bad = noisy(labels, 1.0, seed=1), noisy(labels, 2.0, seed=2)
    ensemble = Ensemble.measure(runs, [good, bad], labels)
    assert ensemble.num_photos == 2000 and sum(ensemble.weights) == pytest.approx(1) and ensemble.weights[0] > 0.6
    assert ensemble.num_right_alone == tuple(int((p.argmax(1) == labels).sum()) for p in (good, bad))
    assert ensemble.num_right == (pool([good, bad], np.array(ensemble.weights)).argmax(1) == labels).sum()
    assert ensemble.is_better and ensemble.num_right > ensemble.num_right_alone[0]
    guess = np.full((2000, 4), 0.25)
    assert not Ensemble.measure(runs, [good, guess], labels).is_better
    ensemble.save(tmp_path / "ensemble.json")
    assert load_ensemble(predictors, tmp_path / "ensemble.json") == ensemble
    assert load_ensemble(predictors, None) is None  # the shipped one is about others
    facts = json.loads((tmp_path / "ensemble.json").read_text())
    (tmp_path / "ensemble.json").write_text(json.dumps({**facts, "models": ["x", "y"]}))
    with pytest.raises(UserError, match="about other runs"):
        load_ensemble(predictors, tmp_path / "ensemble.json")
    ensemble.save(tmp_path / "ensemble.json")
    reordered = Predictor(tiny_run)
    reordered.run = replace(reordered.run, labels=tuple(reversed(reordered.run.labels)))
    with pytest.raises(UserError, match="breeds in another order"):
        load_ensemble([predictors[0], reordered], tmp_path / "ensemble.json")
    (tmp_path / "ensemble.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        load_ensemble(predictors, tmp_path / "ensemble.json")
    with pytest.raises(UserError, match="there is no file"):
        load_ensemble(predictors, tmp_path / "nothing.json")


def test_the_page_says_what_all_say_together_only_where_that_is_better(tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "copy")
    predictors = [Predictor(tiny_run), Predictor(tmp_path / "copy")]
    models = tuple(model_hash(predictor.run) for predictor in predictors)
    for num_right, said in ((90, True), (85, False)):
        page = ModelSet(predictors, Ensemble(models, (0.5, 0.5), 100, num_right, (80, 85), confident_threshold=0.6))
        text = cards.agreement(page.compare(make_photo(2, 1)), page, ENGLISH)
        assert "They agree: Beagle." in text
        assert (
            "right on 90 of the 100 photos that their weights were fitted on, the best of them alone on 85" in text
        ) == said


def test_models_of_the_same_name_get_different_names_and_the_same_run_twice_is_refused(tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "other" / "tiny")
    models = ModelSet([Predictor(tiny_run), Predictor(tmp_path / "other" / "tiny")])
    assert models.names == [f"{tiny_run.parent.name}/tiny", "other/tiny"]
    with pytest.raises(UserError, match="is named twice"):
        ModelSet([Predictor(tiny_run), Predictor(tiny_run)])


def test_the_shipped_runs_are_those_of_the_shipped_ensemble():
    ensemble = load_ensemble([Predictor(run) for run in SHIPPED_RUNS], None)
    assert ensemble is not None and ensemble.num_photos == 1200
