"""Generates French-English sentence pairs from a phrase grammar, for a demo without downloads.

lexicon.txt has the words and the templates, `words` reads and inflects them, and this module writes
sentences in both languages at once and splits them into training, validation and test. Each French
sentence has exactly one English translation: the present becomes the simple present and the passé
composé the simple past; "des" becomes the bare plural; "son" becomes "his" or "her" depending on
the subject of its clause; "aimer les pommes" becomes "to like apples"; "je", "tu", "nous" and
"vous" are masculine.

A combination is a group of words in a sentence that depend on each other: ("chat", "noir"),
("Jane", "Afrique"), ("lire", "past", "pas"). Some are held out: training shows each of their words,
but never together. A model that translates them has learned rules, not phrases.
"""

import random
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, combinations, product
from typing import Any, NamedTuple

from training.phrases.words import (
    FRENCH_VOWEL,
    Phrase,
    add_s,
    agree,
    conjugate,
    find,
    french_plural,
    spell_english,
    spell_french,
)

MIN_PAIRS, MAX_PAIRS = 1_000, 200_000
MAX_WORDS = 14
# One combination in 16 is held out. The remainder is chosen to hold out ("Jane", "Afrique").
HELD_OUT_ONE_IN, HELD_OUT_REMAINDER = 16, 7

Combination = tuple[str, ...]
Choose = Callable[[str, Sequence[Any]], Any]


class PhrasePair(NamedTuple):
    """A French sentence, its English translation, and their combinations."""

    source: str
    target: str
    combinations: tuple[Combination, ...] = ()


class PhraseCorpus(NamedTuple):
    """Distinct pairs; every pair in `test`, and no other pair, has a held-out combination."""

    train: list[PhrasePair]
    validation: list[PhrasePair]
    test: list[PhrasePair]


def make_pairs(num_pairs: int, seed: int = 0) -> PhraseCorpus:
    """Generates a corpus in which every word of the test pairs occurs in training.

    Args:
        num_pairs: Number of training pairs, 1,000 to 200,000. The corpus also has num_pairs / 40
            validation pairs and num_pairs / 24 test pairs.
        seed: The same seed gives the same corpus. Held-out combinations do not depend on it.

    Raises:
        ValueError: If num_pairs is out of range.
    """
    if not MIN_PAIRS <= num_pairs <= MAX_PAIRS:
        raise ValueError(
            f"num_pairs must be {MIN_PAIRS} to {MAX_PAIRS}, so that training shows every word and"
            f" all pairs differ. Received: num_pairs={num_pairs}. Choose a number in this range."
        )
    num_taught, num_test = num_pairs + num_pairs // 40, num_pairs // 24
    drawn, taught, held_out = _distinct_pairs(random.Random(seed)), [], []
    while len(taught) < num_taught:
        pair = next(drawn)
        (held_out if has_held_out(pair) else taught).append(pair)
    train, validation = taught[:num_pairs], taught[num_pairs:]
    known = {word for pair in train for word in words_of(pair)}
    candidates = filter(has_held_out, chain(held_out, drawn))
    fitting = (pair for pair in candidates if known.issuperset(words_of(pair)))
    return PhraseCorpus(train, validation, [next(fitting) for _ in range(num_test)])


def is_held_out(combination: Combination) -> bool:
    """Whether training never shows this combination."""
    return zlib.crc32(" ".join(combination).encode()) % HELD_OUT_ONE_IN == HELD_OUT_REMAINDER


def has_held_out(pair: PhrasePair) -> bool:
    """Whether a pair has a held-out combination."""
    return any(map(is_held_out, pair.combinations))


def words_of(pair: PhrasePair) -> list[tuple[str, str]]:
    """Returns the words of both sides in lower case, each with the name of its side."""
    sides = (("source", pair.source), ("target", pair.target))
    return [(side, word) for side, text in sides for word in re.findall(r"\w+", text.lower())]


def _distinct_pairs(rng: random.Random) -> Iterator[PhrasePair]:
    # Not rng.choice: Python promises the same numbers in later versions only for random().
    def choose(_, options):
        return options[int(rng.random() * len(options))]

    seen = set()
    while True:
        pair = Writer(choose).write()
        if pair.source not in seen and len(pair.source.split()) <= MAX_WORDS:
            seen.add(pair.source)
            yield pair


# Writing -----------------------------------------------------------------------------------------

NOTHING = Phrase("", "")
TENSES = ("present", "present", "past", "past", "future", "want")
HELPERS = {"past": "avoir", "future": "aller", "want": "vouloir"}
BE = ("am", "are", "is", "are", "are", "are")
FRAMES = ("object", "to", "at", "from", "quality", "location", "age")
# The noun phrases that templates name: their kinds of noun, and their determiners.
NOUN_PHRASES = {
    "person": ("person", "definite indefinite possessive"),
    "thing": ("animal text thing food building", "definite possessive owned"),
    "possessor": ("person", "definite possessive"),
    "building": ("building", "definite"),
    "one": ("person animal thing", "one"),
    "several": ("person animal thing", "several"),
    "no": ("person animal thing", "no"),
}


class Writer:
    """Writes one sentence pair; calls `choose` with the name and the options of each choice."""

    def __init__(self, choose: Choose):
        self.choose = choose
        self.combinations: list[Combination] = []
        self.used: set[str] = set()
        self.possessive = "possessive0"  # "mon", until there is a subject

    def write(self) -> PhrasePair:
        self.verb = self.pick("verb", find("verb"))
        is_state = "state" in self.verb.features
        self.tense = self.choose("tense", ("present",) if is_state else TENSES)
        sentence = self.fill(self.pick("sentence", find("sentence")))
        french, english = spell_french(sentence.french), spell_english(sentence.english)
        return PhrasePair(french, english, tuple(self.combinations))

    def pick(self, name: str, options: Sequence[Phrase]) -> Phrase:
        """Chooses a template, or a word that the sentence does not have yet."""
        word = self.choose(name, [option for option in options if option.french not in self.used])
        if word.heads:
            self.used.add(word.french)
        return word

    def combine(self, *groups: Sequence[str]) -> None:
        """Records all combinations of words from two different groups."""
        for one, other in combinations(groups, 2):
            self.combinations += product(one, other)

    def fill(self, template: Phrase) -> Phrase:
        """Fills a template's slots; the phrase also gets the features that all fillers share."""
        slots = {name: self.slot(name) for name in re.findall(r"{(\w+)}", template.french)}
        if not slots:
            return template
        self.combine(*(phrase.heads for phrase in slots.values()))
        return Phrase(
            template.french.format(**{name: phrase.french for name, phrase in slots.items()}),
            template.english.format(**{name: phrase.english for name, phrase in slots.items()}),
            template.features.union(frozenset.intersection(*(p.features for p in slots.values()))),
            heads=tuple(chain.from_iterable(phrase.heads for phrase in slots.values())),
        )

    def slot(self, name: str) -> Phrase:
        """Returns a phrase for the slot with this name."""
        name = name.rstrip("2")
        if name in NOUN_PHRASES:
            kinds, determiners = NOUN_PHRASES[name]
            return self.noun_phrase(name, kinds.split(), determiners)
        if name in ("clause", "asked", "object", "quality", "time"):
            return getattr(self, name)()
        return self.fill(self.pick(name, find(name)))

    def time(self) -> Phrase:
        tense = "state" if "state" in self.verb.features else self.tense
        return self.fill(self.pick("time", find("time", tense)))

    def asked(self) -> Phrase:
        return self.clause(is_question=True)

    def clause(self, is_question: bool = False) -> Phrase:
        verb, tense = self.verb, self.tense
        frame = next(frame for frame in FRAMES if f"takes_{frame}" in verb.features)
        anything = frame in ("quality", "location")
        subjects = [one for one in find("subject") if anything or "any" not in one.features]
        self.subject = subject = self.fill(self.pick("subject", subjects))
        is_her = subject.person == 2 and "f" in subject.features
        self.possessive = f"possessive{subject.person}{'f' if is_her else ''}"
        is_simple = tense in ("present", "past") and "state" not in verb.features
        self.adverb = adverb = self.choose(
            "adverb", [NOTHING] * 3 + (find("adverb") if is_simple else find("adverb")[:1])
        )
        complement = self.slot(frame)
        self.combine(subject.heads, verb.heads, complement.heads)
        if adverb.french:
            self.combinations.append((verb.french, tense, adverb.french))
        return Phrase(
            f"{french_verb(subject, verb, tense, adverb)} {complement.french}",
            f"{english_verb(subject, verb, tense, adverb, is_question)} {complement.english}",
        )

    def object(self) -> Phrase:
        kinds = self.verb.features
        if "takes_region" in kinds and self.choose("object kind", ("region", "noun")) == "region":
            return self.slot("region")
        a = "negated" if "ne" in self.adverb.features else "indefinite"
        determiners = "general" if "taste" in kinds else f"definite possessive owned counted {a}"
        return self.noun_phrase("object", kinds, determiners)

    def quality(self) -> Phrase:
        fitting = [one for one in find("adjective") if one.features & self.subject.features]
        adjective = self.pick("quality", [one for one in fitting if one.french != "nouveau"])
        return adjective._replace(french=agree(adjective.french, self.subject, adjective.form))

    def noun_phrase(self, role: str, kinds: Iterable[str], determiners: str) -> Phrase:
        """Returns a noun with its determiner, an adjective or none on each side, and its owner."""
        noun = self.pick(role, [one for one in find("noun") if not one.features.isdisjoint(kinds)])
        wanted = determiners.replace("possessive", self.possessive).split()
        fitting = [one for one in find("determiner") if not one.features.isdisjoint(wanted)]
        determiner = self.choose(f"{role} determiner", fitting)
        noun = noun._replace(features=noun.features | (determiner.features & {"plural"}))
        before, after = (self._adjective(f"{role} {side}", noun) for side in ("before", "after"))
        article = determiner.form if determiner.form and "f" in noun.features else determiner.french
        in_front, behind = (agree(one.french, noun, one.form) for one in (before, after))
        if noun.features.isdisjoint({"f", "plural"}) and re.match(FRENCH_VOWEL, noun.french):
            in_front = before.before_vowel or in_front
        if article == "des" and in_front:
            article = "de"
        english, owner, other = determiner.english, "", NOTHING
        if "counted" in determiner.features:
            article, english, *_ = other = self.slot("count")
        elif "owned" in determiner.features:
            other = self.slot("owner")
            owner = f"de {other.french}"
            english = other.english + ("'" if other.plural and other.english[-1] == "s" else "'s")
        for dependent in (before, after, other):
            self.combine(noun.heads, dependent.heads)
        french, thing = noun.french, noun.english
        if noun.plural:
            french, thing = french_plural(french), noun.form or add_s(thing)
        return noun._replace(
            french=f"{article} {in_front} {french} {behind} {owner}",
            english=f"{english} {before.english} {after.english} {thing}",
        )

    def _adjective(self, name: str, noun: Phrase) -> Phrase:
        fitting = [
            one
            for one in find("adjective")
            if one.features & noun.features and ("before" in one.features) == ("before" in name)
        ]
        return self.pick(name, [NOTHING] * (4 * len(fitting)) + fitting)


def french_verb(subject: Phrase, verb: Phrase, tense: str, adverb: Phrase) -> str:
    """Returns subject, "ne" if negated, finite verb, adverb, and infinitive or participle."""
    finite, rest = HELPERS.get(tense, verb.french), ""
    if tense == "past":
        rest = conjugate(verb.french)[6]
        if "être" in verb.features:
            finite, rest = "être", agree(rest, subject)
    elif tense in HELPERS:
        rest = verb.french
    ne = "ne" if "ne" in adverb.features else ""
    return f"{subject.french} {ne} {conjugate(finite)[subject.person]} {adverb.french} {rest}"


def english_verb(
    subject: Phrase, verb: Phrase, tense: str, adverb: Phrase, is_question: bool
) -> str:
    """Returns subject, adverb and verb, with "do" where "not" or a question needs it."""
    is_third, infinitive = subject.person == 2, verb.english
    auxiliary = "did" if tense == "past" else "does" if is_third else "do"
    if tense == "want":
        infinitive = f"want to {infinitive}"
    elif tense == "future":
        auxiliary, infinitive = BE[subject.person], f"going to {infinitive}"
    elif infinitive == "be":
        auxiliary, infinitive = BE[subject.person], ""
    if is_question:
        return f"{auxiliary} {subject.english} {adverb.english} {infinitive}"
    if auxiliary in BE or adverb.english == "not":
        return f"{subject.english} {auxiliary} {adverb.english} {infinitive}"
    first, *others = infinitive.split()
    finite = " ".join([add_s(first) if is_third else first, *others])
    if tense == "past":
        finite = verb.form or verb.english + ("d" if verb.english.endswith("e") else "ed")
    return f"{subject.english} {adverb.english} {finite}"
