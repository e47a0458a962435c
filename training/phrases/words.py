"""The words of the phrase grammar: French and English, with their forms, spelling and sounds.

Tables first to last: nouns, adjectives, verbs, regions, small words, numbers. `kinds` says what a
thing can be (a cat is an animal, a pet, small, and can be somebody's own); verbs and adjectives
name the kinds that they go with, so that nobody reads an apple.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

# Sounds and spelling ------------------------------------------------------------------------------

FRENCH_VOWELS = "aeiouyhâàéèêëîïôœû"  # a written h is mute unless the word is listed below
NO_ELISION = ("hibou", "haricot", "harpe", "Hongrie", "huit", "onze")
ELIDED = {"je", "ne", "de", "le", "la", "que"}
BEFORE_VOWEL = {"ma": "mon", "ta": "ton", "sa": "son"}
CONTRACTED = {
    ("à", "le"): "au",
    ("à", "les"): "aux",
    ("de", "le"): "du",
    ("de", "les"): "des",
}
ENGLISH_VOWELS = (*"aeiouAEIOU", "honest")
ENGLISH_Y_SOUNDS = ("uni", "use", "Euro")


def begins_with_vowel(word: str) -> bool:
    """Whether a French word begins with a vowel sound: "ami", "hôtel", but not "hibou"."""
    return word[0].lower() in FRENCH_VOWELS and not word.startswith(NO_ELISION)


def french_surface(words: str, mark: str = ".") -> str:
    """Elides (le + ami, l'ami), contracts (de + le, du), capitalises and adds the closing mark."""
    elided: list[str] = []
    for word, following in _with_next(words.split()):
        if following and begins_with_vowel(following):
            word = word[:-1] + "'" if word in ELIDED else BEFORE_VOWEL.get(word, word)
        elided.append(word)
    contracted: list[str] = []
    for word in elided:
        if contracted and (contracted[-1], word) in CONTRACTED:
            contracted[-1] = CONTRACTED[contracted[-1], word]
        else:
            contracted.append(word)
    return _capitalise(" ".join(contracted).replace("' ", "'")) + mark


def english_surface(words: str, mark: str = ".") -> str:
    """Turns "a" into "an" before a vowel sound, capitalises and adds the closing mark."""
    chosen = []
    for word, following in _with_next(words.split()):
        vowel = following.startswith(ENGLISH_VOWELS) and not following.startswith(ENGLISH_Y_SOUNDS)
        chosen.append("an" if word == "a" and vowel else word)
    return _capitalise(" ".join(chosen).replace("can not", "cannot")) + mark


def _with_next(words: list[str]) -> list[tuple[str, str]]:
    return list(zip(words, [*words[1:], ""], strict=True))


def _capitalise(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def french_plural(word: str) -> str:
    """Gâteau, gâteaux; hôpital, hôpitaux; gris, gris; pomme de terre, pommes de terre."""
    word, *others = word.split(" ")
    if word.endswith("al"):
        word = word[:-2] + "aux"
    elif not word.endswith(("s", "x")):
        word += "x" if word.endswith(("eau", "hibou")) else "s"
    return " ".join([word, *others])


def add_s(word: str) -> str:
    """English plural or third person: book, books; box, boxes; library, libraries; go, goes."""
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "x", "ch", "sh", "o")) else "s")


# Words --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Noun:
    """A noun; `kinds` says what it can be, and so which verbs and adjectives it goes with."""

    french: str
    gender: str  # "m" or "f"
    english: str
    kinds: str
    english_plural: str = ""

    def in_french(self, plural: bool) -> str:
        """The French form in the given number."""
        return french_plural(self.french) if plural else self.french

    def in_english(self, plural: bool) -> str:
        """The English form in the given number."""
        return (self.english_plural or add_s(self.english)) if plural else self.english


@dataclass(frozen=True)
class Adjective:
    """An adjective; those of the group "before" stand before the noun in French."""

    french: str
    feminine: str
    english: str
    group: str  # "before", "colour", "origin" or "quality"
    kinds: str
    before_vowel: str = ""  # bel, vieil, nouvel

    def agree(self, gender: str, plural: bool) -> str:
        """The French form in the given gender and number."""
        singular = self.feminine if gender == "f" else self.french
        return french_plural(singular) if plural else singular


@dataclass(frozen=True)
class Verb:
    """A verb and what it takes: an object of some kinds, or a place with its prepositions."""

    french: str  # infinitive
    english: str  # in "look for" the first word is the one that is conjugated
    past: str
    object_kinds: str = ""
    preposition: str = ""  # French, before a place: "à" or "de"
    in_region: str = ""  # English, before a country or a town
    at_building: str = ""
    with_etre: bool = False  # forms the passé composé with "être", and the participle agrees
    nature: str = "action"  # a "state" and a "taste" take neither a time of day nor "souvent"
    tenses: str = "present past future want can"

    def present(self, person: int) -> str:
        """The present form of one of the six persons, counted from 0."""
        stem = self.french[:-2]
        regular = f"{stem}e {stem}es {stem}e {stem}ons {stem}ez {stem}ent"
        forms, _ = IRREGULAR.get(self.french, (regular, ""))
        return forms.split()[person]

    @property
    def participle(self) -> str:
        """The past participle in the masculine singular."""
        _, participle = IRREGULAR.get(self.french, ("", self.french[:-2] + "é"))
        return participle


@dataclass(frozen=True)
class Region:
    """A country or continent with its French article, or a town, which has none."""

    french: str
    english: str
    article: str = ""


Word = TypeVar("Word", Noun, Adjective, Verb, Region)


def _by_french(words: Iterable[Word]) -> dict[str, Word]:
    return {word.french: word for word in words}


def goes_with(kinds: str, others: str) -> bool:
    """Whether two lists of kinds have one in common."""
    return not set(kinds.split()).isdisjoint(others.split())


def _entries(table: str) -> list[tuple[str, list[str]]]:
    """Reads lines such as `kinds: entry, entry`; inside a word "_" stands for a space."""
    found = []
    for line in table.strip().splitlines():
        key, entries = line.strip().split(":")
        for entry in entries.split(","):
            found.append((key, [word.replace("_", " ") for word in entry.split()]))
    return found


NOUNS = _by_french(
    Noun(*entry[:3], kinds, *entry[3:])
    for kinds, entry in _entries(
        """
        person: garçon m boy, fille f girl
        person adult: homme m man men, femme f woman women, roi m king, reine f queen
        person adult: actrice f actress
        person own: enfant m child children
        friend own: ami m friend, amie f friend, voisin m neighbour, voisine f neighbour
        friend own: professeur m teacher, médecin m doctor, infirmière f nurse
        friend own: facteur m postman postmen, étudiante f student
        animal: loup m wolf wolves, hibou m owl, éléphant m elephant
        animal pet own small: chat m cat
        animal pet own: chien m dog, cheval m horse, oiseau m bird, mouton m sheep sheep
        animal pet own: oie f goose geese
        text own: roman m novel, poème m poem, article m article, comédie f comedy
        text own small: lettre f letter
        text thing own small: livre m book
        thing own: bateau m boat, horloge f clock, harpe f harp
        thing own vehicle: vélo m bike
        thing own vehicle container: voiture f car
        thing own small: montre f watch, bague f ring, robe f dress, chapeau m hat
        thing own small: parapluie m umbrella, couteau m knife knives
        thing own small container: boîte f box
        thing own furniture: table f table, chaise f chair, étagère f shelf shelves
        food own: pomme f apple, orange f orange, fraise f strawberry, tomate f tomato
        food own: pomme_de_terre f potato, haricot m bean, œuf m egg, gâteau m cake
        building home own container: maison f house
        building public home own: château m castle
        building public: musée m museum, théâtre m theatre, marché m market, hôtel m hotel
        building public: hôpital m hospital, école f school, église f church, gare f station
        building public: université f university, bibliothèque f library, usine f factory
        """
    )
)

# "before": in front of the noun; the other groups follow it. Left out are pairs that mean something
# else: "une petite amie" is no small friend, "une vieille fille" no old girl.
ADJECTIVES = _by_french(
    Adjective(*entry[:3], *group_and_kinds.split(maxsplit=1), *entry[3:])
    for group_and_kinds, entry in _entries(
        """
        before thing animal food building: grand grande big, petit petite small
        before thing animal text building: beau belle beautiful bel
        before adult friend pet thing building: vieux vieille old vieil
        before friend thing text building: nouveau nouvelle new nouvel
        before thing home: joli jolie pretty
        before friend food text: bon bonne good
        before food text: mauvais mauvaise bad
        before text: long longue long
        before person friend animal: jeune jeune young
        colour thing food: rouge rouge red, vert verte green
        colour thing: bleu bleue blue
        colour thing animal: noir noire black
        colour thing animal home: blanc blanche white, gris grise grey
        origin person friend thing text: français française French, italien italienne Italian
        origin person friend thing text: anglais anglaise English, européen européenne European
        origin person friend animal thing text: africain africaine African
        quality thing food home: cher chère expensive
        quality thing: lourd lourde heavy, utile utile useful
        quality thing building: moderne moderne modern
        quality food: délicieux délicieuse delicious, frais fraîche fresh
        quality text public: intéressant intéressante interesting
        quality person text public: célèbre célèbre famous
        quality person animal text: étrange étrange strange
        quality person friend: honnête honnête honest, heureux heureuse happy
        quality person friend animal: intelligent intelligente intelligent, malade malade sick
        """
    )
)

# The six present forms and the participle; verbs in -er that are not listed here are regular.
IRREGULAR = {
    "avoir": ("ai as a avons avez ont", "eu"),
    "être": ("suis es est sommes êtes sont", "été"),
    "aller": ("vais vas va allons allez vont", "allé"),
    "vouloir": ("veux veux veut voulons voulez veulent", "voulu"),
    "pouvoir": ("peux peux peut pouvons pouvez peuvent", "pu"),
    "venir": ("viens viens vient venons venez viennent", "venu"),
    "dormir": ("dors dors dort dormons dormez dorment", "dormi"),
    "acheter": ("achète achètes achète achetons achetez achètent", "acheté"),
    "manger": ("mange manges mange mangeons mangez mangent", "mangé"),
    "vendre": ("vends vends vend vendons vendez vendent", "vendu"),
    "attendre": ("attends attends attend attendons attendez attendent", "attendu"),
    "perdre": ("perds perds perd perdons perdez perdent", "perdu"),
    "prendre": ("prends prends prend prenons prenez prennent", "pris"),
    "choisir": ("choisis choisis choisit choisissons choisissez choisissent", "choisi"),
    "voir": ("vois vois voit voyons voyez voient", "vu"),
    "lire": ("lis lis lit lisons lisez lisent", "lu"),
    "écrire": ("écris écris écrit écrivons écrivez écrivent", "écrit"),
    "dire": ("dis dis dit disons dites disent", "dit"),
    "savoir": ("sais sais sait savons savez savent", "su"),
}

AVOIR = Verb("avoir", "have", "had")
ETRE = Verb("être", "be", "was", nature="state", tenses="present")
AGE = Verb("avoir", "be", "was", nature="state", tenses="present future")  # "a dix ans"
HELPERS = {
    "future": Verb("aller", "be going to", ""),
    "want": Verb("vouloir", "want to", "wanted to"),
    "can": Verb("pouvoir", "can", ""),
}
BE = ("am", "are", "is", "are", "are", "are")
REPORT_VERBS = _by_french(
    (
        Verb("penser", "think", "thought"),
        Verb("savoir", "know", "knew"),
        Verb("dire", "say", "said"),
    )
)
OBJECT_VERBS = _by_french(
    (
        Verb("visiter", "visit", "visited", "public region"),
        Verb("chercher", "look for", "looked for", "person friend animal thing public"),
        Verb("trouver", "find", "found", "small animal"),
        Verb("regarder", "look at", "looked at", "person friend animal thing building"),
        Verb("dessiner", "draw", "drew", "animal thing building"),
        Verb("écouter", "listen to", "listened to", "person friend"),
        Verb("inviter", "invite", "invited", "person friend"),
        Verb("aider", "help", "helped", "person friend"),
        Verb("attendre", "wait for", "waited for", "person friend"),
        Verb("manger", "eat", "ate", "food"),
        Verb("acheter", "buy", "bought", "thing pet food home"),
        Verb("vendre", "sell", "sold", "thing pet food home"),
        Verb("perdre", "lose", "lost", "small"),
        Verb("prendre", "take", "took", "small"),
        Verb("choisir", "choose", "chose", "thing food"),
        Verb("voir", "see", "saw", "person friend animal thing building"),
        Verb("lire", "read", "read", "text"),
        Verb("écrire", "write", "wrote", "text"),
        Verb("aimer", "like", "liked", "food text pet building", nature="taste", tenses="present"),
        Verb("détester", "hate", "hated", "food text animal", nature="taste", tenses="present"),
    )
)
PLACE_VERBS = _by_french(
    (
        Verb("aller", "go", "went", "", "à", "to", "to", with_etre=True),
        Verb("arriver", "arrive", "arrived", "", "à", "in", "at", with_etre=True),
        Verb("rester", "stay", "stayed", "", "à", "in", "at", with_etre=True),
        Verb("venir", "come", "came", "", "de", "from", "from", with_etre=True),
        Verb("travailler", "work", "worked", "", "à", "in", "at"),
        Verb("dormir", "sleep", "slept", "", "à", "in", "at"),
        Verb("habiter", "live", "lived", "", "à", "in", "", nature="state"),
    )
)
# Each with its article; towns have none.
REGIONS = _by_french(
    Region(*entry, article)
    for article, entry in _entries(
        """
        la: Afrique Africa, Asie Asia, Europe Europe, France France, Italie Italy, Espagne Spain
        la: Allemagne Germany, Hongrie Hungary, Chine China
        le: Japon Japan, Canada Canada, Maroc Morocco, Brésil Brazil
        les: États-Unis the_United_States, Pays-Bas the_Netherlands
        : Paris Paris, Londres London, Lisbonne Lisbon, Athènes Athens, Venise Venice
        : Berlin Berlin
        """
    )
)
# French, English, what can be there, and where.
LOCATIONS = (
    ("sur", "on", "small food", "furniture"),
    ("sous", "under", "small food", "furniture"),
    ("dans", "in", "small food", "container"),
    ("devant", "in front of", "person friend pet vehicle", "building"),
    ("derrière", "behind", "person friend pet vehicle", "building"),
    ("près de", "near", "person friend pet vehicle", "building"),
    ("à côté de", "next to", "person friend pet vehicle", "building furniture"),
)
POSSESSIVES = {  # of the six persons: before a masculine, a feminine and a plural
    "m": ("mon", "ton", "son", "notre", "votre", "leur"),
    "f": ("ma", "ta", "sa", "notre", "votre", "leur"),
    "plural": ("mes", "tes", "ses", "nos", "vos", "leurs"),
}
ENGLISH_POSSESSIVES = {
    "m": ("my", "your", "his", "our", "your", "their"),
    "f": ("my", "your", "her", "our", "your", "their"),
}
FREQUENCIES = {"souvent": "often", "parfois": "sometimes", "rarement": "rarely"}
ADVERBS = {"": "", "pas": "not", "jamais": "never"} | FREQUENCIES
MONTHS, WEEKDAYS, UNITS = (
    {french: english for _, (french, english) in _entries(table)}
    for table in (
        """
        : janvier January, février February, mars March, avril April, mai May, juin June
        : juillet July, août August, septembre September, octobre October, novembre November
        : décembre December
        """,
        ": lundi Monday, mardi Tuesday, mercredi Wednesday, jeudi Thursday, vendredi Friday\n"
        ": samedi Saturday, dimanche Sunday",
        ": jours days, semaines weeks, mois months, ans years",
    )
)


# Numbers ------------------------------------------------------------------------------------------

FRENCH_NUMBERS = (
    "zéro un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize "
    "dix-sept dix-huit dix-neuf"
).split()
ENGLISH_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
FRENCH_TENS = {20: "vingt", 30: "trente", 40: "quarante", 50: "cinquante", 60: "soixante"}
ENGLISH_TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()


def french_number(number: int) -> str:
    """The words of 0 to 99: vingt et un, soixante et onze, quatre-vingts, quatre-vingt-dix-sept."""
    if number < 20:
        return FRENCH_NUMBERS[number]
    if number >= 80:
        return "quatre-vingts" if number == 80 else f"quatre-vingt-{FRENCH_NUMBERS[number - 80]}"
    base = min(number // 10 * 10, 60)
    if number == base:
        return FRENCH_TENS[base]
    link = " et " if number - base in (1, 11) else "-"
    return FRENCH_TENS[base] + link + FRENCH_NUMBERS[number - base]


def english_number(number: int) -> str:
    """The words of 0 to 99: twenty-one, ninety-seven."""
    if number < 20:
        return ENGLISH_NUMBERS[number]
    tens, ones = divmod(number, 10)
    return ENGLISH_TENS[tens] + (f"-{ENGLISH_NUMBERS[ones]}" if ones else "")
