"""Reads the lexicon's phrases, inflects them, and adjusts the spelling where two words meet."""

import functools
import re
from pathlib import Path
from typing import NamedTuple

LEXICON = Path(__file__).with_name("lexicon.txt")


class Phrase(NamedTuple):
    """Words with the same meaning in both languages, or a template with slots.

    `heads` are the words that form combinations with words around the phrase. lexicon.txt explains
    the other fields.
    """

    french: str
    english: str
    features: frozenset[str] = frozenset()
    form: str = ""
    before_vowel: str = ""
    heads: tuple[str, ...] = ()

    @property
    def plural(self) -> bool:
        return not self.features.isdisjoint({"plural", "3", "4", "5"})

    @property
    def person(self) -> int:
        """The grammatical person: 0 je, 1 tu, 2 il or elle, 3 nous, 4 vous, 5 ils or elles."""
        named = [int(feature) for feature in self.features if feature.isdigit()]
        return named[0] if named else 5 if self.plural else 2


@functools.cache
def find(*features: str) -> list[Phrase]:
    """Returns the words and templates that have all of these features."""
    return [phrase for phrase in _read() if phrase.features.issuperset(features)]


@functools.cache
def _read() -> list[Phrase]:
    found = []
    for line in LEXICON.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        names, entries = line.split(": ")
        features = frozenset(names.split())
        if "|" in entries:
            found.append(Phrase(*entries.split(" | "), features))
            continue
        headless = not features.isdisjoint({"pronoun", "determiner", "takes_age"})
        for entry in entries.split(", "):
            forms = [form.replace("_", " ").lstrip() for form in entry.split(" ")]
            french, english, *others = forms * 2 if len(forms) == 1 else forms
            heads = () if headless else (french,)
            found.append(Phrase(french, english, features, *others, heads=heads))
    return found


# Inflection --------------------------------------------------------------------------------------

# The six persons of the present, then the past participle.
ENDINGS = {
    "er": "e es e ons ez ent é".split(),
    "ir": "is is it issons issez issent i".split(),
    "re": ["s", "s", "", "ons", "ez", "ent", "u"],
}
IRREGULAR = {
    "acheter": "achète achètes achète achetons achetez achètent acheté",
    "aller": "vais vas va allons allez vont allé",
    "avoir": "ai as a avons avez ont eu",
    "être": "suis es est sommes êtes sont été",
    "lire": "lis lis lit lisons lisez lisent lu",
    "manger": "mange manges mange mangeons mangez mangent mangé",
    "venir": "viens viens vient venons venez viennent venu",
    "voir": "vois vois voit voyons voyez voient vu",
    "vouloir": "veux veux veut voulons voulez veulent voulu",
}


def conjugate(verb: str) -> list[str]:
    """Returns the six persons of the French present, then the past participle."""
    if verb in IRREGULAR:
        return IRREGULAR[verb].split()
    return [verb[:-2] + ending for ending in ENDINGS[verb[-2:]]]


def agree(word: str, noun: Phrase, feminine: str = "") -> str:
    """Returns a French adjective or participle in the gender and number of a noun."""
    if word and "f" in noun.features:
        word = feminine or (word if word.endswith("e") else word + "e")
    return french_plural(word) if noun.plural else word


def french_plural(word: str) -> str:
    """Returns the French plural: gâteaux, chevaux, gris, pommes de terre."""
    word, *others = word.split(" ")
    if word.endswith("al"):
        word = word[:-1] + "ux"
    elif word and not word.endswith(("s", "x")):
        word += "x" if word.endswith(("eau", "hibou")) else "s"
    return " ".join([word, *others])


def add_s(word: str) -> str:
    """Returns the English plural or third person: books, boxes, universities."""
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "x", "ch", "sh", "o")) else "s")


# Spelling ----------------------------------------------------------------------------------------

# A French h is mute except in some words; some English vowels sound like consonants.
FRENCH_VOWEL = "(?=[aeiouyhéèêîœ])(?!hibou|haricot|harpe|hongrie|huit|onze)"
ENGLISH_VOWEL = "(?=[aeiou]|honest)(?!uni|use)"
CONTRACTED = {"à le": "au", "à les": "aux", "de le": "du", "de les": "des"}


def spell_french(words: str) -> str:
    """Elides (l'ami, mon amie), contracts (du, aux) and capitalizes."""
    text = " ".join(words.split())
    text = re.sub(rf"\b(j|n|d|l|qu)[ea] {FRENCH_VOWEL}", r"\1'", text, flags=re.I)
    text = re.sub(rf"\b([mts])a {FRENCH_VOWEL}", r"\1on ", text, flags=re.I)
    text = re.sub(r"\b(à|de) les?\b", lambda match: CONTRACTED[match[0]], text)
    return _tidy(text, ",.")


def spell_english(words: str) -> str:
    """Turns "a" into "an" before a vowel sound and capitalizes."""
    text = " ".join(words.split())
    return _tidy(re.sub(rf"\ba {ENGLISH_VOWEL}", "an ", text, flags=re.I), ",.?")


def _tidy(text: str, marks: str) -> str:
    text = re.sub(f" ([{marks}])", r"\1", text)
    return text[0].upper() + text[1:]
