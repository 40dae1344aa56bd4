import pytest

from dogbreeds.breeds import all_breeds, breed_groups, find_breed, group_of, label_name, parse_breeds
from dogbreeds.errors import UserError


def test_the_table_is_stanford_dogs():
    breeds = all_breeds()
    assert len(breeds) == 120
    assert [breed.wordnet_id for breed in breeds] == sorted({breed.wordnet_id for breed in breeds})
    assert len({breed.name for breed in breeds}) == 120
    assert breeds[0].name == "Chihuahua" and breeds[-1].name == "African hunting dog"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("n02086240-Shih-Tzu", "Shih-Tzu"),
        ("n02086240", "Shih-Tzu"),
        ("n02096585-Boston_bull", "Boston terrier"),
        ("boston TERRIER", "Boston terrier"),
        ("shih tzu", "Shih-Tzu"),
        ("Old_English_sheepdog", "Old English sheepdog"),
        ("alsatian", "German shepherd"),
        ("Japanese Chin", "Japanese spaniel"),
        ("berger belge malinois", "Malinois"),
        ("  black and tan coonhound ", "Black-and-tan coonhound"),
    ],
)
def test_names_of_many_forms_are_recognised(text, name):
    breed = find_breed(text)
    assert breed is not None and breed.name == name


@pytest.mark.parametrize("text", ["", "cat", "n00000000-cat", "terrier"])
def test_other_names_are_not(text):
    assert find_breed(text) is None


def test_every_name_of_a_breed_finds_it():
    for breed in all_breeds():
        for name in (breed.wordnet_id, f"{breed.wordnet_id}-{breed.dataset_name}", *breed.names):
            assert find_breed(name) is breed


def test_an_unknown_breed_is_named_with_its_neighbours():
    with pytest.raises(UserError, match=r"unknown breed 'beagel': did you mean beagle"):
        parse_breeds(["pug", "beagel"])


def test_breeds_come_once_and_in_stanfords_order():
    assert [breed.name for breed in parse_breeds(["pug", "Chihuahua", "n02110958"])] == ["Chihuahua", "Pug"]


def test_labels_that_are_no_breed_keep_their_name():
    assert label_name("my_mixed_dog") == "my mixed dog"


def test_every_breed_has_a_group_and_a_french_name():
    breeds = all_breeds()
    assert {breed.group for breed in breeds} == set(breed_groups())
    assert len({breed.name_fr for breed in breeds}) == 120
    assert all(breed.name_fr == breed.name_fr.strip() != "" for breed in breeds)
    assert find_breed("pug").name_fr == "Carlin"
    for name, group in {"Whippet": "sighthound", "pug": "companion", "dingo": "wild_dog", "cat": None}.items():
        assert group_of(name) == group
