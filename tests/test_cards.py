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
from dogbreeds.errors import UserError
from dogbreeds.images import BadImage, Problem
from dogbreeds.run_folder import SHIPPED_RUNS, RunFolder
from dogbreeds.serving.api import ComparisonJson, comparison_json
from dogbreeds.serving.model_set import ModelSet, agree
from dogbreeds.serving.page import breeds_tab, cards, photo_picker
from dogbreeds.serving.page.texts import ENGLISH, FRENCH, Texts, texts_for
from dogbreeds.serving.prediction import Prediction
from dogbreeds.serving.predictor import Predictor

SHARES = {"Norfolk terrier": 0.5, "Norwich terrier": 0.3, "Cairn terrier": 0.15}
TERRIERS = tuple(BreedProbability(breed, probability) for breed, probability in SHARES.items())
UNSURE = Answer("unsure", TERRIERS, TERRIERS, "terrier")
UNKNOWN = Answer("unknown_breed", TERRIERS, TERRIERS, None)


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


def names(html: str) -> list[list[str]]:
    """The breeds of each list of bars."""
    return [re.findall(r'class="name">([^<]+)', part) for part in html.split("<ol")[1:]]


def test_an_unsure_answer_names_the_group_and_what_it_may_be():
    said = cards.headline(UNSURE, 120, ENGLISH)
    assert "Not sure" in said and "Probably a terrier." in said
    two = Answer("unsure", TERRIERS, TERRIERS[:2], None)
    said = cards.headline(two, 120, FRENCH)
    assert "Pas sûr" in said and "Peut-être Norfolk terrier (50\u202f%)." in said and "Probablement" not in said
    listed = cards.details(prediction(two), "vit", ENGLISH)
    assert listed.index("Probably one of these") < listed.index("<details")
    assert names(listed) == [["Norfolk terrier", "Norwich terrier"], [*SHARES]]


def test_a_sure_answer_says_how_sure_in_words_and_then_names_its_look_alikes():
    breeds = [("Pug", 0.94), ("Boxer", 0.05), ("Bullmastiff", 0.004)]
    pug = Answer("confident", tuple(BreedProbability(*breed) for breed in breeds), (), None)
    assert "About 94 of 100 answers as sure as this are right." in cards.headline(pug, 120, ENGLISH)
    assert "Environ 99 réponses" in cards.headline(answer_of("Pug", 0.9999), 120, FRENCH)  # none is certain
    said = cards.details(prediction(pug), "vit", ENGLISH)
    assert names(said) == [["Boxer"], ["Pug", "Boxer"]] and "0\u202f%" not in said
    assert names(cards.details(prediction(answer_of("Pug", 0.9999)), "vit", ENGLISH)) == [["Pug"]]


def test_who_answered_and_how_fast_is_for_who_asks():
    shown, _, hidden = cards.details(prediction(UNSURE), "my_vit", ENGLISH).partition("<details")
    assert "my_vit" not in shown + cards.picture(prediction(UNSURE), {None: make_photo(0, 0)}, ENGLISH)
    assert "Answered by my_vit in 10 ms." in hidden


def test_the_heat_map_lies_where_the_model_looked():
    looked = replace(prediction(UNSURE), region=(0.25, 0.0, 0.75, 1.0))
    said = cards.picture(looked, {None: make_photo(0, 0, (200, 100))}, ENGLISH)
    assert "left: 25.00%; top: 0.00%; width: calc(75.00% - 25.00%); height: calc(100.00% - 0.00%)" in said
    without = cards.picture(replace(looked, heat_map=None), {None: make_photo(0, 0)}, ENGLISH)
    assert without.count("<img") == 1 and "checkbox" not in without
    assert "can&#x27;t tell where" in cards.details(replace(looked, heat_map=None), "vit", ENGLISH)


def test_the_kinds_of_answers_differ_in_words_and_signs():
    said = [
        cards.headline(answer_of("Pug", 0.9, verdict), 120, FRENCH) for verdict in ("confident", "not_a_dog")
    ] + [cards.headline(UNSURE, 120, FRENCH), cards.headline(UNKNOWN, 120, FRENCH)]  # fmt: skip
    said.append(cards.problem("Ce fichier est vide.", FRENCH))
    assert ">Carlin<" in said[0] and "aucune de mes 120 races" in said[1]
    signs = [text.split('aria-hidden="true">')[1].split("<")[0] for text in said]
    assert len(set(signs)) == 5


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


def test_videos_are_offered_where_the_page_takes_them(tiny_run):
    models = ModelSet([Predictor(tiny_run)])
    assert "video" not in photo_picker.layout(models, ENGLISH, takes_videos=False)
    offered = photo_picker.layout(models, ENGLISH, takes_videos=True)
    assert offered.count('capture="environment"') == 2 and 'accept="image/*,video/*"' in offered and "200 MB" in offered


def test_the_page_uses_every_sentence_and_no_other():
    code = "".join(file.read_text() for file in (ROOT / "dogbreeds/serving/page").glob("*.py"))
    used = {name for pair in re.findall(r"\btext\(\"(\w+)\"\)|\b(?:texts|other)\.(\w+)", code) for name in pair if name}
    made_from_others = {
        "heading",
        "breeds_html",
        "breed_list_html",
        "review_html",
        "picker_html",
        "photos_at_most",
        "too_many_html",
        "waiting_many_html",
        "about_all",
    }
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
    run = replace(run, record=replace(run.record, figures={"validation": validation}))
    said = cards.rates(run, "vit", texts)
    assert fitted in said and untouched not in said and str(validation["n"]) in said
    figures = {"validation": validation, "test": {**validation, "n": 77}}
    said = cards.rates(replace(run, record=replace(run.record, figures=figures)), "vit", texts)
    assert untouched in said and fitted not in said and "77" in said


def test_a_run_without_figures_says_nothing_of_how_right_it_is():
    run = RunFolder.open(SHIPPED_RUNS[0])
    run = replace(run, record=replace(run.record, figures={}))
    assert cards.rates(run, "vit", ENGLISH) == cards.rates_in_short(run, ENGLISH) == ""


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (
            ENGLISH,
            "On 200 everyday photos of dogs, on which its answers were only checked, vit was **confident** on 60 %, "
            "and wrong on 5 % of these; **not sure** on 30 %, where the named look-alikes missed the breed on 7 %; and "
            "took 4 % for **none of its breeds**. It took 6 % for dogs of **another breed, or a mix**. Of 100 photos "
            "without a dog, it called 98 % **none of its breeds**. Of 50 dogs of breeds that it does not know, it was "
            "**confident** of one of its own for 12 %.",
        ),
        (
            FRENCH,
            "Sur 200 photos de chiens prises au quotidien, qui n'ont servi qu'à vérifier ses réponses, vit était "
            "**sûr** pour 60 %, et se trompait pour 5 % de celles-ci ; **pas sûr** pour 30 %, où la bonne race "
            "manquait parmi les races nommées pour 7 % ; et n'y voyait **aucune de ses races** pour 4 %. Pour 6 % "
            "des photos, il y voyait **une autre race, ou un croisé**. Sur 100 photos sans chien, il répondait "
            "**aucune de ses races** pour 98 %. Sur 50 chiens de races qu'il ne connaît pas, il était **sûr** de l'une "
            "des siennes pour 12 %.",
        ),
    ],
)
def test_figures_of_everyday_photos_come_before_all_others(texts, words):
    run = RunFolder.open(SHIPPED_RUNS[0])
    everyday = {
        "n": 200,
        "share_confident": 0.6,
        "share_unsure": 0.3,
        "share_unknown_breed": 0.06,
        "share_not_a_dog": 0.04,
        "top1_confident": 0.95,
        "candidates_right": 0.93,
        "n_other_photos": 100,
        "other_photos_not_a_dog": 0.98,
        "n_other_dogs": 50,
        "other_dogs_confident": 0.12,
    }
    validation = run.record.figures["validation"]
    figures = {"validation": validation, "test": validation, "everyday": everyday}
    run = replace(run, record=replace(run.record, figures=figures))
    assert cards.rates(run, "vit", texts) == words.replace(" %", "\u202f%")
    short = cards.rates_in_short(run, texts)
    assert "200" in short and "60\u202f%" in short and "95\u202f%" in short


def test_programs_get_what_is_described_to_them(tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "copy")
    predictors = [Predictor(tiny_run), Predictor(tmp_path / "copy")]
    reply = comparison_json(ModelSet(predictors).compare(make_photo(2, 1)))
    described = TypeAdapter(ComparisonJson)
    assert described.dump_python(described.validate_json(json.dumps(reply), strict=True)) == reply
    assert reply["agree"] and [answer["breeds"][0]["breed"] for answer in reply["answers"]] == ["Beagle"] * 2
    assert reply.keys() == {"answers", "agree", "error"}


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([answer_of("Pug", 0.9), answer_of("Pug", 0.4, "unsure")], True),
        ([answer_of("Pug", 0.9), answer_of("Beagle", 0.4, "unsure")], False),
        ([answer_of("Pug", 0.9, "not_a_dog"), answer_of("Beagle", 0.4, "not_a_dog")], True),
        ([answer_of("Pug", 0.9), answer_of("Pug", 0.4, "not_a_dog")], False),
        ([answer_of("Pug", 0.9, "unknown_breed"), answer_of("Beagle", 0.4, "unknown_breed")], True),
        ([answer_of("Pug", 0.9), answer_of("Pug", 0.9, "unknown_breed")], False),
        ([answer_of("Pug", 0.4, "not_a_dog"), answer_of("Pug", 0.9, "unknown_breed")], False),
    ],
)
def test_models_agree_on_a_breed_or_on_none(answers, expected):
    assert agree(answers) == expected
    said = cards.agreement(answers, ENGLISH)
    assert ("They agree" in said) == expected and ("They disagree" in said) != expected


def test_what_models_agree_or_disagree_on_is_said():
    pug, unknown, no_dog = answer_of("Pug", 0.9), UNKNOWN, answer_of("Pug", 0.2, "not_a_dog")
    assert "They agree: Pug." in cards.agreement([pug, answer_of("Pug", 0.4, "unsure")], ENGLISH)
    assert "a dog, but of none of the breeds that they know, or a mix." in cards.agreement([unknown] * 2, ENGLISH)
    assert "un chien, mais d&#x27;aucune des races qu&#x27;ils connaissent" in cards.agreement([unknown] * 2, FRENCH)
    assert "none of the breeds that they know." in cards.agreement([no_dog] * 2, ENGLISH)
    said = cards.agreement([pug, unknown, no_dog], ENGLISH)
    assert "Pug (90\u202f%) / Another breed, or a mix / None of my breeds." in said


@pytest.mark.parametrize(
    ("texts", "title", "sentence", "resembles"),
    [
        (
            ENGLISH,
            "Another breed, or a mix",
            "A dog, but of none of the 120 breeds I know, or a mix.",
            "It resembles: Norfolk terrier, Norwich terrier, Cairn terrier.",
        ),
        (
            FRENCH,
            "Une autre race, ou un croisé",
            "Un chien, mais d&#x27;aucune des 120 races que je connais, ou un croisé.",
            "Il ressemble à : Norfolk terrier, Norwich terrier, Cairn terrier.",
        ),
    ],
)
def test_a_dog_of_an_unknown_breed_gets_no_percentages(texts, title, sentence, resembles):
    said = cards.headline(UNKNOWN, 120, texts)
    assert all(words in said for words in (title, sentence, resembles)) and "unknown_breed" in said
    shown = cards.picture(prediction(UNKNOWN), {None: make_photo(0, 0)}, texts)
    assert "Norfolk terrier" in shown  # what the heat map speaks for
    shown = re.sub(r"[\d.]+%", "", shown) + cards.details(prediction(UNKNOWN), "vit", texts)
    for html in (said, shown):
        assert "%" not in re.sub(r'src="[^"]*"', "", html) and 'class="bar"' not in html
    assert texts.most_probable not in shown and texts.most_probable in cards.details(prediction(UNSURE), "vit", texts)


def test_models_of_the_same_name_get_different_names_and_the_same_run_twice_is_refused(tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "other" / "tiny")
    models = ModelSet([Predictor(tiny_run), Predictor(tmp_path / "other" / "tiny")])
    assert models.names == [f"{tiny_run.parent.name}/tiny", "other/tiny"]
    with pytest.raises(UserError, match="is named twice"):
        ModelSet([Predictor(tiny_run), Predictor(tiny_run)])


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (
            ENGLISH,
            ["<li>Beagle</li>", 'Japanese Chin <small lang="en">Japanese spaniel', "Cavalier King Charles spaniel"],
        ),
        (FRENCH, ['Carlin <small lang="en">pug', "Cavalier King Charles <small", "dalmatien"]),
    ],
)
def test_all_breeds_are_listed_by_todays_names(texts, words):
    said = breeds_tab.layout(RunFolder.open(SHIPPED_RUNS[0]).labels, texts)
    assert said.count("<li>") == 120 and "120" in said and all(word in said for word in words)
    listed = [re.sub("<.*", "", item) for item in said.split("<li>")[1:]]
    assert listed == sorted(listed, key=str.casefold) and len(set(listed)) == 120
