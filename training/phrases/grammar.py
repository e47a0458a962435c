"""French-English sentence pairs from a phrase grammar: data for a demo that downloads nothing.

`phrase_words` has the words, `phrase_rules` builds the sentences; this module draws them at random
and parts them. The mapping is a function: a French sentence has one English translation. The
choices behind that: the French present is the English simple present, the passé composé is the
simple past; "des" is the bare plural; "son" is "his" or "her" after the subject of its own clause;
after "aimer" and "détester" a definite plural is meant in general ("aime les pommes", "likes
apples"); "je" and "tu" agree as masculine, "nous" and "vous" as masculine plural.

Each sentence has its combinations: tuples of words that stand in construction, such as
("chat", "noir"), ("visiter", "Afrique"), ("Jane", "Afrique"), ("lire", "past", "pas"). Some are
held out: training never shows them, although it shows each of their words in other company. A model
that translates them has learned the rules and not the phrases (systematic generalisation).

Example:
    >>> corpus = make_pairs(12_000)
    >>> len(corpus.train), len(corpus.validation), len(corpus.test)
    (12000, 300, 500)
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from typing import TypeVar

from training.phrases.rules import (
    COUNTS,
    NAMES,
    PRONOUNS,
    Clause,
    Combination,
    Complement,
    NounPhrase,
    PhrasePair,
    Subject,
    Time,
    age_complement,
    ago,
    building_complement,
    coordination,
    date,
    existence,
    hour,
    location_complement,
    month,
    noun_subject,
    object_complement,
    quality_complement,
    question,
    region_complement,
    report,
    statement,
    within,
)
from training.phrases.words import (
    ADJECTIVES,
    AGE,
    ETRE,
    FREQUENCIES,
    LOCATIONS,
    MONTHS,
    NOUNS,
    OBJECT_VERBS,
    PLACE_VERBS,
    REGIONS,
    REPORT_VERBS,
    UNITS,
    WEEKDAYS,
    Adjective,
    Noun,
    Region,
    Verb,
    goes_with,
)

Option = TypeVar("Option")

MIN_PAIRS = 1_000
MAX_PAIRS = 200_000
MAX_WORDS = 16
HELD_OUT_ONE_IN = 16

SHOWN_SENTENCES: tuple[tuple[str, str], ...] = (
    ("Jane visite l'Afrique en septembre.", "Jane visits Africa in September."),
    (
        "Ma voisine n'a pas acheté de grandes pommes rouges.",
        "My neighbour did not buy big red apples.",
    ),
    (
        "Est-ce que le vieil homme cherche son parapluie noir ?",
        "Does the old man look for his black umbrella?",
    ),
    ("Paul lit souvent les longues lettres de Marie.", "Paul often reads Marie's long letters."),
    (
        "Je pense qu'elles sont allées au Japon il y a deux ans.",
        "I think that they went to Japan two years ago.",
    ),
    (
        "Il y a trois chevaux blancs à côté de l'hôtel.",
        "There are three white horses next to the hotel.",
    ),
    (
        "À huit heures et demie, Anne et Claire vont arriver aux États-Unis.",
        "At half past eight, Anne and Claire are going to arrive in the United States.",
    ),
    ("Le médecin a quatre-vingt-dix-sept ans.", "The doctor is ninety-seven years old."),
    (
        "Pourquoi est-ce que tu ne veux pas visiter le nouvel hôpital ?",
        "Why do you not want to visit the new hospital?",
    ),
    ("L'infirmière ne mange jamais de tomates.", "The nurse never eats tomatoes."),
)

# One combination of each shown sentence; CRC-32 chooses one in HELD_OUT_ONE_IN of all others.
SHOWN_COMBINATIONS: frozenset[Combination] = frozenset(
    {
        ("Jane", "Afrique"),
        ("acheter", "pomme"),
        ("homme", "parapluie"),
        ("lettre", "Marie"),
        ("aller", "Japon"),
        ("cheval", "blanc"),
        ("Claire", "États-Unis"),
        ("médecin", "quatre-vingt-dix-sept"),
        ("hôpital", "nouveau"),
        ("infirmière", "tomate"),
    }
)

TIMES: dict[str, list[Time]] = {
    "month": [month(name) for name in MONTHS],
    "date": [date(day, name) for name in MONTHS for day in range(1, 29)],
    "habit": [
        time
        for day, english in WEEKDAYS.items()
        for time in (Time(f"le {day}", f"on {english}s"), Time(f"chaque {day}", f"every {english}"))
    ],
    "weekday": [Time(day, f"on {english}") for day, english in WEEKDAYS.items()],
    "hour": [
        hour(number, quarter)
        for number in range(1, 12)
        for quarter in ("", "et quart", "et demie", "moins le quart")
    ],
    "part": [
        Time("à midi", "at noon"),
        Time("à minuit", "at midnight"),
        Time("le matin", "in the morning"),
        Time("le après-midi", "in the afternoon"),
        Time("le soir", "in the evening"),
    ],
    "before": [
        Time("hier", "yesterday"),
        Time("la semaine dernière", "last week"),
        Time("le mois dernier", "last month"),
    ],
    "ago": [ago(number, unit) for number in range(2, 13) for unit in UNITS],
    "year": [Time(f"en {year}", f"in {year}") for year in range(2012, 2024)],
    "after": [
        Time("demain", "tomorrow"),
        Time("la semaine prochaine", "next week"),
        Time("le mois prochain", "next month"),
    ],
    "within": [within(number, unit) for number in range(2, 13) for unit in UNITS],
}
TIMES_OF_TENSE = {
    "present": "month date habit hour part".split(),
    "past": "month date weekday hour before ago year".split(),
    "future": "month date weekday hour after within".split(),
    "want": "month date weekday hour after".split(),
    "can": "month date weekday hour after".split(),
}


@dataclass(frozen=True)
class PhraseCorpus:
    """Pairs in three parts, all distinct; each pair of `test` has a held-out combination."""

    train: list[PhrasePair]
    validation: list[PhrasePair]
    test: list[PhrasePair]


def make_pairs(num_pairs: int, seed: int = 0) -> PhraseCorpus:
    """Draws a corpus: training pairs, validation pairs of the same kind, and held-out test pairs.

    Each word of the test pairs, on both sides, is in the training pairs.

    Args:
        num_pairs: training pairs, 1,000 to 200,000; one in 40 is added for validation and one in
            24 for test (12,000, 300 and 500).
        seed: the same seed gives the same corpus. What is held out depends on no seed.

    Raises:
        ValueError: num_pairs is out of range.
    """
    if not MIN_PAIRS <= num_pairs <= MAX_PAIRS:
        raise ValueError(
            f"num_pairs must be {MIN_PAIRS} to {MAX_PAIRS}, so that training shows every word and "
            f"the pairs stay distinct. Received: num_pairs={num_pairs}. Choose a number between."
        )
    num_validation, num_test = num_pairs // 40, num_pairs // 24
    drawn = _draw_distinct(random.Random(seed))
    taught: list[PhrasePair] = []
    held_out: list[PhrasePair] = []
    while len(taught) < num_pairs + num_validation:
        pair = next(drawn)
        (held_out if has_held_out(pair) else taught).append(pair)
    train, validation = taught[:num_pairs], taught[num_pairs:]
    known = {word for pair in train for word in words_of(pair)}
    test: list[PhrasePair] = []
    candidates = chain(held_out, filter(has_held_out, drawn))
    while len(test) < num_test:
        pair = next(candidates)
        if known.issuperset(words_of(pair)):
            test.append(pair)
    return PhraseCorpus(train, validation, test)


def is_held_out(combination: Combination) -> bool:
    """Whether training never sees this combination."""
    checksum = zlib.crc32(" ".join(combination).encode("utf-8"))
    return combination in SHOWN_COMBINATIONS or checksum % HELD_OUT_ONE_IN == 0


def has_held_out(pair: PhrasePair) -> bool:
    """Whether a held-out combination is in the pair."""
    return any(is_held_out(combination) for combination in pair.combinations)


def words_of(pair: PhrasePair) -> list[tuple[str, str]]:
    """The words of both sides, lower-cased, each with the name of its side."""
    sides = (("source", pair.source), ("target", pair.target))
    return [(side, word) for side, text in sides for word in re.findall(r"[\w-]+", text.lower())]


def _draw_distinct(rng: random.Random) -> Iterator[PhrasePair]:
    seen = set()
    while True:
        pair = draw_pair(rng)
        if pair.source not in seen and len(pair.source.split()) <= MAX_WORDS:
            seen.add(pair.source)
            yield pair


# Drawing at random -------------------------------------------------------------------------------


def _pick(rng: random.Random, options: Sequence[Option]) -> Option:
    # Not rng.choice: only the sequence of random() is promised to stay the same across versions.
    return options[int(rng.random() * len(options))]


def _weigh(rng: random.Random, weights: Mapping[Option, float]) -> Option:
    left = rng.random() * sum(weights.values())
    for option, weight in weights.items():
        left -= weight
        if left < 0:
            return option
    return option


def draw_pair(rng: random.Random) -> PhrasePair:
    """One sentence of any form."""
    form = _weigh(rng, {"statement": 66, "question": 15, "report": 12, "existence": 7})
    if form == "existence":
        return _draw_existence(rng)
    if form == "question":
        return _draw_question(rng)
    clause = _draw_clause(rng)
    if form == "statement":
        return statement(clause, fronted=rng.random() < 0.3)
    taken = clause.subject.french.split()
    reporters = [one for one in (*NAMES.values(), *PRONOUNS.values()) if one.french not in taken]
    return report(_pick(rng, reporters), _pick(rng, list(REPORT_VERBS.values())), clause)


def _draw_question(rng: random.Random) -> PhrasePair:
    word = _weigh(rng, {"": 6, "pourquoi": 3, "quand": 1})
    clause = _draw_clause(rng)
    while clause.subject.person in (0, 3) or (word == "quand" and clause.verb.nature != "action"):
        clause = _draw_clause(rng)
    if word == "":
        often = clause.adverb if clause.adverb in FREQUENCIES else ""
        return question(replace(clause, adverb=often))
    adverb = _weigh(rng, {"": 1, "pas": 1}) if word == "pourquoi" else ""
    return question(replace(clause, adverb=adverb, time=None), word)


def _draw_existence(rng: random.Random) -> PhrasePair:
    kinds, place = _draw_location(rng)
    form = _weigh(rng, {"statement": 6, "negation": 2, "question": 2})
    determiners = {"un": 1} if form == "negation" else {"un": 3, "count": 2}
    phrase = _draw_noun_phrase(rng, kinds, determiners, without=place.heads)
    return existence(phrase, place, form)


def _draw_clause(rng: random.Random) -> Clause:
    draw = _weigh(
        rng,
        {
            _draw_object_clause: 52,
            _draw_place_clause: 24,
            _draw_quality_clause: 11,
            _draw_location_clause: 7,
            _draw_age_clause: 10,
        },
    )
    return draw(rng)


def _draw_object_clause(rng: random.Random) -> Clause:
    verb, subject = _pick(rng, list(OBJECT_VERBS.values())), _draw_subject(rng)
    kinds = verb.object_kinds
    if goes_with("region", kinds) and rng.random() < 0.7:
        return _finish(rng, subject, verb, region_complement(verb, _draw_region(rng)))
    if goes_with("person", kinds) and rng.random() < 0.2:
        name = _pick(rng, [name for name in NAMES if name not in subject.heads])
        return _finish(rng, subject, verb, Complement(name, name, (name,)))
    determiners, plural = {"le": 3, "son": 4, "owner": 2, "un": 4, "count": 2}, 0.35
    if verb.nature == "taste":
        determiners, plural = {"le": 4, "son": 1, "owner": 1}, 1.0
    phrase = _draw_noun_phrase(rng, kinds, determiners, plural=plural, without=subject.heads)
    return _finish(rng, subject, verb, object_complement(verb, phrase, subject))


def _draw_place_clause(rng: random.Random) -> Clause:
    verb, subject = _pick(rng, list(PLACE_VERBS.values())), _draw_subject(rng)
    if not verb.at_building or rng.random() < 0.55:
        return _finish(rng, subject, verb, region_complement(verb, _draw_region(rng)))
    building = _draw_noun_phrase(rng, "public", {"le": 1}, plural=0.0)
    return _finish(rng, subject, verb, building_complement(verb, building))


def _draw_quality_clause(rng: random.Random) -> Clause:
    subject = _draw_subject(rng, adjectives=0.0)
    if rng.random() < 0.6:
        kinds = "animal thing text food building"
        phrase = _draw_noun_phrase(rng, kinds, {"le": 4, "son": 1, "owner": 2}, adjectives=0.0)
        subject = noun_subject(phrase)
    fitting = _fitting_adjectives(subject.kinds)
    adjective = _pick(rng, [one for one in fitting if one.french != "nouveau"])
    return _finish(rng, subject, ETRE, quality_complement(adjective, subject))


def _draw_location_clause(rng: random.Random) -> Clause:
    kinds, place = _draw_location(rng)
    if goes_with("person", kinds) and rng.random() < 0.5:
        return _finish(rng, _draw_subject(rng), ETRE, place)
    determiners = {"le": 4, "son": 1, "owner": 2}
    phrase = _draw_noun_phrase(rng, kinds, determiners, without=place.heads)
    return _finish(rng, noun_subject(phrase), ETRE, place)


def _draw_age_clause(rng: random.Random) -> Clause:
    subject, youngest = _pick(rng, [*NAMES.values(), *PRONOUNS.values()]), 2
    if rng.random() < 0.4:
        determiners = {"le": 3, "son": 1, "owner": 1}
        phrase = _draw_noun_phrase(rng, "friend", determiners, adjectives=0.0, plural=0.0)
        subject, youngest = noun_subject(phrase), 20
    return _finish(rng, subject, AGE, age_complement(_pick(rng, range(youngest, 100))))


def _finish(rng: random.Random, subject: Subject, verb: Verb, complement: Complement) -> Clause:
    """Adds a tense, an adverb and a time that suit the verb and each other."""
    weights = {"present": 45, "past": 28, "future": 13, "want": 7, "can": 7}
    tense = _weigh(rng, {tense: weights[tense] for tense in verb.tenses.split()})
    if verb.nature != "action":
        adverb = _weigh(rng, {"": 3, "pas": 1})
    elif tense in ("present", "past"):
        adverb = _weigh(rng, {"": 59, "pas": 25, "jamais": 6} | dict.fromkeys(FREQUENCIES, 4))
    else:
        adverb = _weigh(rng, {"": 3, "pas": 1})
    clause = Clause(subject, verb, complement, tense, adverb)
    return replace(clause, time=_draw_time(rng, clause)) if rng.random() < 0.5 else clause


def _draw_time(rng: random.Random, clause: Clause) -> Time | None:
    if clause.verb.nature != "action":
        return _pick(rng, TIMES["year"]) if clause.tense == "past" else None
    if clause.adverb not in ("", "pas"):
        return _pick(rng, TIMES["month"])
    return _pick(rng, TIMES[_pick(rng, TIMES_OF_TENSE[clause.tense])])


def _draw_subject(rng: random.Random, adjectives: float = 0.4) -> Subject:
    form = _weigh(rng, {"name": 30, "pronoun": 34, "noun": 28, "two": 8})
    if form == "pronoun":
        return _pick(rng, list(PRONOUNS.values()))
    if form == "noun":
        determiners = {"le": 5, "un": 1, "son": 1, "owner": 1, "count": 1}
        return noun_subject(_draw_noun_phrase(rng, "person friend", determiners, adjectives))
    first = _pick(rng, list(NAMES.values()))
    if form == "name":
        return first
    return coordination(first, _pick(rng, [one for one in NAMES.values() if one != first]))


def _draw_noun_phrase(
    rng: random.Random,
    kinds: str,
    determiners: Mapping[str, float],
    adjectives: float = 0.45,
    plural: float = 0.35,
    without: tuple[str, ...] = (),
) -> NounPhrase:
    """A noun of some kinds; `adjectives` and `plural` are how often it has one and is one."""
    noun = _pick(rng, [one for one in _fitting_nouns(kinds) if one.french not in without])
    if not goes_with(noun.kinds, "own"):
        determiners = {one: determiners[one] for one in determiners if one not in ("son", "owner")}
    determiner = _weigh(rng, determiners)
    is_plural = rng.random() < plural or determiner == "count"
    chosen = _draw_adjectives(rng, noun) if rng.random() < adjectives else ()
    if determiner == "owner":
        owner = _draw_owner(rng, (noun.french, *without))
        return NounPhrase(noun, "le", is_plural, chosen, owner)
    word = _pick(rng, COUNTS) if determiner == "count" else determiner
    return NounPhrase(noun, word, is_plural, chosen)


def _draw_adjectives(rng: random.Random, noun: Noun) -> tuple[Adjective, ...]:
    fitting = _fitting_adjectives(noun.kinds)
    first = _pick(rng, fitting)
    seconds = [one for one in fitting if one.group in ("colour", "origin")]
    if first.group == "before" and seconds and rng.random() < 0.3:
        return first, _pick(rng, seconds)
    return (first,)


def _draw_owner(rng: random.Random, without: tuple[str, ...]) -> Subject:
    if rng.random() < 0.6:
        return _pick(rng, [one for one in NAMES.values() if one.french not in without])
    return noun_subject(_draw_noun_phrase(rng, "person friend", {"le": 1}, 0.0, without=without))


def _draw_region(rng: random.Random) -> Region:
    return _pick(rng, list(REGIONS.values()))


def _draw_location(rng: random.Random) -> tuple[str, Complement]:
    french, english, kinds, landmarks = _pick(rng, LOCATIONS)
    landmark = _draw_noun_phrase(rng, landmarks, {"le": 1}, 0.4, plural=0.0)
    return kinds, location_complement(french, english, landmark)


@cache
def _fitting_nouns(kinds: str) -> tuple[Noun, ...]:
    return tuple(noun for noun in NOUNS.values() if goes_with(noun.kinds, kinds))


@cache
def _fitting_adjectives(kinds: str) -> tuple[Adjective, ...]:
    return tuple(one for one in ADJECTIVES.values() if goes_with(one.kinds, kinds))
