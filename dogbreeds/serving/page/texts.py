"""What the page says, in English and in French."""

from dataclasses import dataclass

from dogbreeds.breeds import GROUPS, find_breed
from dogbreeds.images import MAX_PIXELS, BadImage, Problem


@dataclass(frozen=True)
class Texts:
    """Every sentence of the page in one language; those with {} are filled in."""

    language: str
    """As in HTTP: ``en`` or ``fr``."""
    title: str
    one_photo: str
    side_by_side: str
    many_photos: str
    photo: str
    model: str
    waiting: str
    confident: str
    unsure: str
    not_a_dog: str
    error: str
    look_alikes: str
    or_: str
    is_a: str
    perhaps: str
    perhaps_short: str
    none_of_mine: str
    looks_like: str
    try_closer: str
    hard_to_see: str
    most_probable: str
    heat_map: str
    heat_map_alt: str
    no_heat_map: str
    no_heat_map_alt: str
    answered_by: str
    agree: str
    disagree: str
    none_sees_a_dog: str
    together: str
    together_why: str
    photos: str
    folder: str
    stop: str
    table: str
    waiting_many: str
    progress: str
    done: str
    stopped: str
    too_many: str
    download: str
    thumbnail: str
    file: str
    breed: str
    probability: str
    verdict: str
    about: str
    about_text: str
    rates: str
    rates_group: str
    program: str
    program_text: str

    def problem(self, error: BadImage) -> str:
        """Why a photo can't be read."""
        if self.language == "fr":
            return _FRENCH_PROBLEMS[error.problem]
        return _ENGLISH_PROBLEMS.get(error.problem, str(error))

    def name(self, label: str) -> str:
        """A breed's name in this language."""
        breed = find_breed(label) if self.language == "fr" else None
        return breed.name_fr if breed else label

    def group(self, group: str) -> str:
        """What one dog of a breed group is called."""
        english, french = GROUPS[group]
        return french if self.language == "fr" else english

    def percent(self, share: float) -> str:
        """A share as whole percents; the narrow no-break space keeps number and sign on one line."""
        return f"{share:.0%}".replace("%", "\u202f%")


ENGLISH = Texts(
    language="en",
    title="What breed is this dog?",
    one_photo="One photo",
    side_by_side="Side by side",
    many_photos="Many photos",
    photo="Photo",
    model="Model",
    waiting="Drop, paste, choose or take a photo of a dog, and its breed appears here.",
    confident="Confident",
    unsure="Not sure",
    not_a_dog="None of my breeds",
    error="No answer",
    look_alikes="Look-alikes: {}.",
    or_="or",
    is_a="Probably a {}.",
    perhaps="Perhaps {}.",
    perhaps_short="perhaps {}",
    none_of_mine="This does not look like one of my {} breeds.",
    looks_like="This is what the dog looks like, not its ancestry.",
    try_closer="A photo with the dog closer may help.",
    hard_to_see="It may be no dog, or the dog is hard to see. What it resembles most is listed below.",
    most_probable="Most probable breeds",
    heat_map="Where {} looked: bright places speak for {}; the greyed border was not looked at.",
    heat_map_alt="The photo with a heat map: bright places speak for {}.",
    no_heat_map="Where {} looked, it can't tell; the greyed border was not looked at.",
    no_heat_map_alt="The photo, with what was not looked at greyed.",
    answered_by="Answered by {} in {} ms.",
    agree="They agree: {}.",
    disagree="They disagree: {}.",
    none_sees_a_dog="They agree: this is none of the breeds that they know.",
    together="Together: {}.",
    together_why="Together they are right on {} of the {} photos that their weights were fitted on, the best of them "
    "alone on {}.",
    photos="Photos",
    folder="Choose a folder",
    stop="Stop",
    table="Answers",
    waiting_many="Drop many photos, or choose a folder: a table appears here, to sort, filter and download.",
    progress="{} of {} photos answered ...",
    done="Photos answered: {}; could not be read: {}.",
    stopped="Stopped. Photos answered: {}; could not be read: {}.",
    too_many="These are {} files, more than the {} that the page takes at a time: choose fewer, or use "
    "“python -m dogbreeds index FOLDER” on your own machine.",
    download="Download as CSV",
    thumbnail="Preview",
    file="File",
    breed="Breed",
    probability="Probability",
    verdict="Answer",
    about="What the answer means",
    about_text="""
The answer says what the dog **looks like**, not what its ancestry is: a mixed breed gets the pure breeds it resembles.
One dog that fills most of the photo is told best.

Each percentage is calibrated: of many answers given 80 %, about 80 % are right on photos like those of the data set.
Photos lose their place, time and other hidden data as soon as they arrive, are deleted from this server within 20
minutes, and are used for nothing else.""",
    rates="On {n} photos of dogs held out from training, on which its thresholds were fitted, {model} was "
    "**confident** on {confident}, and wrong on {wrong} of these; **not sure** on {unsure}, where the named "
    "look-alikes missed the breed on {missed}; and took {no_dog} for **none of its breeds**.",
    rates_group=" Where it was not sure of the breed but named the group, the group was wrong on {}.",
    program="Use it from a program",
    program_text="With the Python client (`pip install gradio_client`):",
)

FRENCH = Texts(
    language="fr",
    title="De quelle race est ce chien ?",
    one_photo="Une photo",
    side_by_side="Côte à côte",
    many_photos="Plusieurs photos",
    photo="Photo",
    model="Modèle",
    waiting="Déposez, collez, choisissez ou prenez la photo d'un chien, et sa race s'affiche ici.",
    confident="Sûr",
    unsure="Pas sûr",
    not_a_dog="Aucune de mes races",
    error="Pas de réponse",
    look_alikes="Races qui se ressemblent : {}.",
    or_="ou",
    is_a="Probablement : {}.",
    perhaps="Peut-être {}.",
    perhaps_short="peut-être {}",
    none_of_mine="Ceci ne ressemble à aucune de mes {} races.",
    looks_like="C'est ce à quoi le chien ressemble, pas son ascendance.",
    try_closer="Une photo où le chien est plus proche peut aider.",
    hard_to_see="Ce n'est peut-être pas un chien, ou il se voit mal. Ci-dessous, ce à quoi il ressemble le plus.",
    most_probable="Races les plus probables",
    heat_map="Où {} a regardé : les zones claires parlent en faveur de : {} ; le bord grisé n'a pas été regardé.",
    heat_map_alt="La photo avec une carte de chaleur : les zones claires parlent en faveur de : {}.",
    no_heat_map="{} ne sait pas dire où il a regardé ; le bord grisé n'a pas été regardé.",
    no_heat_map_alt="La photo, dont la partie non regardée est grisée.",
    answered_by="Réponse de {} en {} ms.",
    agree="Ils sont d'accord : {}.",
    disagree="Ils ne sont pas d'accord : {}.",
    none_sees_a_dog="Ils sont d'accord : ce n'est aucune des races qu'ils connaissent.",
    together="Ensemble : {}.",
    together_why="Ensemble, ils ont raison sur {} des {} photos sur lesquelles leurs poids ont été réglés, le meilleur "
    "seul sur {}.",
    photos="Photos",
    folder="Choisir un dossier",
    stop="Arrêter",
    table="Réponses",
    waiting_many="Déposez plusieurs photos, ou choisissez un dossier : un tableau s'affiche ici, à trier, filtrer et "
    "télécharger.",
    progress="{} photos sur {} traitées ...",
    done="Photos traitées : {} ; illisibles : {}.",
    stopped="Arrêté. Photos traitées : {} ; illisibles : {}.",
    too_many="Cela fait {} fichiers, plus que les {} que la page accepte à la fois : choisissez-en moins, ou utilisez "
    "« python -m dogbreeds index DOSSIER » sur votre machine.",
    download="Télécharger en CSV",
    thumbnail="Aperçu",
    file="Fichier",
    breed="Race",
    probability="Probabilité",
    verdict="Réponse",
    about="Ce que la réponse veut dire",
    about_text="""
La réponse dit à quoi le chien **ressemble**, pas quelle est son ascendance : un croisé reçoit les races pures
auxquelles il ressemble. Un chien seul, qui remplit presque toute la photo, est le mieux reconnu.

Chaque pourcentage est calibré : sur de nombreuses réponses données à 80 %, environ 80 % sont justes sur des photos
comme celles du jeu de données. Les photos perdent lieu, heure et autres données cachées dès leur arrivée, sont effacées
de ce serveur en 20 minutes au plus et ne servent à rien d'autre.""",
    rates="Sur {n} photos de chiens mises de côté, sur lesquelles ses seuils ont été réglés, {model} était **sûr** "
    "pour {confident}, et se trompait pour {wrong} de celles-ci ; **pas sûr** pour {unsure}, où la bonne race manquait "
    "parmi les races nommées pour {missed} ; et n'y voyait **aucune de ses races** pour {no_dog}.",
    rates_group=" Quand il n'était pas sûr de la race mais nommait le groupe, le groupe était faux pour {}.",
    program="S'en servir depuis un programme",
    program_text="Avec le client Python (`pip install gradio_client`) :",
)


_ENGLISH_PROBLEMS: dict[Problem, str] = {
    "missing": "This photo is no longer here. Please send it again.",
    "unreadable": "This file can't be read. Please send it again.",
}
"""Where the usual sentence names the file by a path that is the server's business."""

_FRENCH_PROBLEMS: dict[Problem, str] = {
    "missing": "Cette photo n'est plus là. Envoyez-la de nouveau.",
    "unreadable": "Ce fichier ne peut pas être lu. Envoyez-le de nouveau.",
    "empty": "Ce fichier est vide. Choisissez une photo.",
    "not_a_photo": "Ce fichier n'est pas une photo (JPEG, PNG, WebP, HEIC et d'autres peuvent être lus).",
    "too_large": "Cette image est trop grande. Choisissez-en une copie plus petite : "
    f"un JPEG d'au plus {MAX_PIXELS // 1_000_000} mégapixels.",
    "no_heic": "C'est une photo HEIC, que ce serveur ne sait pas lire. Enregistrez-la en JPEG.",
    "cut_short": "Cette photo est incomplète : le fichier a été coupé. Choisissez-en une autre copie.",
    "damaged": "Cette photo est abîmée et ne peut pas être lue. Choisissez-en une autre copie.",
}


def texts_for(accept_language: str | None) -> Texts:
    """The language that a browser asks for first, if the page speaks it, as gradio's own words on the page go by that.

    Args:
        accept_language: The HTTP header, such as ``fr-CH,fr;q=0.9,en;q=0.8``: languages in the order of preference.
    """
    return FRENCH if (accept_language or "").strip().lower().startswith("fr") else ENGLISH
