"""The rules of the phrase grammar: from words to phrases, clauses and sentences.

Everything is built in both languages at once, as plain strings of underlying words ("je ne ai pas
vu le ami de le roi"); the last step makes the sounds fit ("Je n'ai pas vu l'ami du roi."). On the
way each phrase and clause keeps its combinations: the words that stand in construction there.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from training.phrases.words import (
    ADVERBS,
    AVOIR,
    BE,
    ENGLISH_NUMBERS,
    ENGLISH_POSSESSIVES,
    ETRE,
    FRENCH_NUMBERS,
    HELPERS,
    MONTHS,
    POSSESSIVES,
    UNITS,
    Adjective,
    Noun,
    Region,
    Verb,
    add_s,
    begins_with_vowel,
    english_number,
    english_surface,
    french_number,
    french_surface,
)

Combination = tuple[str, ...]
COUNTS = FRENCH_NUMBERS[2:13]  # deux to douze


# Phrases ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Subject:
    """Who does it, in both languages; `heads` are the words that enter combinations."""

    french: str
    english: str
    person: int = 2  # je, tu, il or elle, nous, vous, ils or elles: 0 to 5
    gender: str = "m"
    heads: tuple[str, ...] = ()
    kinds: str = "person adult"
    combinations: tuple[Combination, ...] = ()

    @property
    def plural(self) -> bool:
        """Whether participles and adjectives agree with it in the plural."""
        return self.person >= 3


@dataclass(frozen=True)
class NounPhrase:
    """A noun with its company: "le", "un", "son" or a number, adjectives, an owner (de Marie)."""

    noun: Noun
    determiner: str = "le"
    plural: bool = False
    adjectives: tuple[Adjective, ...] = ()
    owner: Subject | None = None

    @property
    def combinations(self) -> tuple[Combination, ...]:
        """The pairs of words that stand in construction inside the phrase."""
        dependents = [adjective.french for adjective in self.adjectives]
        if self.determiner in COUNTS:
            dependents.append(self.determiner)
        if self.owner:
            dependents.extend(self.owner.heads)
        inherited = self.owner.combinations if self.owner else ()
        return tuple((self.noun.french, word) for word in dependents) + inherited


@dataclass(frozen=True)
class Complement:
    """What follows the verb: an object, a place, a quality or an age."""

    french: str
    english: str
    heads: tuple[str, ...] = ()
    negated: str = ""  # the French after "pas" and "jamais", where it differs: "de pommes"
    combinations: tuple[Combination, ...] = ()


@dataclass(frozen=True)
class Time:
    """When: words that can stand at the beginning or the end of a clause."""

    french: str
    english: str
    combinations: tuple[Combination, ...] = ()


NAMES = {
    name: Subject(name, name, 2, gender, (name,))
    for gender, names in (("f", "Jane Marie Sophie Claire Anne"), ("m", "Paul Pierre David Émile"))
    for name in names.split()
}
PRONOUNS = {
    "je": Subject("je", "I", 0),
    "tu": Subject("tu", "you", 1),
    "il": Subject("il", "he", 2),
    "elle": Subject("elle", "she", 2, "f"),
    "nous": Subject("nous", "we", 3),
    "vous": Subject("vous", "you", 4),
    "ils": Subject("ils", "they", 5),
    "elles": Subject("elles", "they", 5, "f"),
}


def french_noun_phrase(
    phrase: NounPhrase, possessor: Subject = PRONOUNS["je"], negated: bool = False
) -> str:
    """The underlying French words; `possessor` is the person that "son" points back to."""
    noun, plural = phrase.noun, phrase.plural
    before, after = [], []
    for adjective in phrase.adjectives:
        form = adjective.agree(noun.gender, plural)
        if noun.gender == "m" and not plural and begins_with_vowel(noun.french):
            form = adjective.before_vowel or form
        (before if adjective.group == "before" else after).append(form)
    determiner = _french_determiner(phrase, possessor, negated, bool(before))
    owner = ["de", phrase.owner.french] if phrase.owner else []
    return " ".join([determiner, *before, noun.in_french(plural), *after, *owner])


def _french_determiner(
    phrase: NounPhrase, possessor: Subject, negated: bool, before_adjective: bool
) -> str:
    key = "plural" if phrase.plural else phrase.noun.gender
    if phrase.determiner == "son":
        return POSSESSIVES[key][possessor.person]
    if phrase.determiner == "le":
        return {"m": "le", "f": "la", "plural": "les"}[key]
    if phrase.determiner == "un":
        if negated or (phrase.plural and before_adjective):
            return "de"
        return {"m": "un", "f": "une", "plural": "des"}[key]
    return phrase.determiner


def english_noun_phrase(
    phrase: NounPhrase, possessor: Subject = PRONOUNS["je"], generic: bool = False
) -> str:
    """The English words; a `generic` definite plural has no article."""
    adjectives = [adjective.english for adjective in phrase.adjectives]
    determiner = _english_determiner(phrase, possessor, generic)
    return " ".join([*determiner, *adjectives, phrase.noun.in_english(phrase.plural)])


def _english_determiner(phrase: NounPhrase, possessor: Subject, generic: bool) -> list[str]:
    if phrase.owner:
        return [genitive(phrase.owner)]
    if phrase.determiner == "son":
        return [ENGLISH_POSSESSIVES[possessor.gender][possessor.person]]
    if phrase.determiner == "le":
        return [] if generic and phrase.plural else ["the"]
    if phrase.determiner == "un":
        return [] if phrase.plural else ["a"]
    if phrase.determiner in COUNTS:
        return [ENGLISH_NUMBERS[FRENCH_NUMBERS.index(phrase.determiner)]]
    return [phrase.determiner]  # "no", after "there is"


def genitive(owner: Subject) -> str:
    """Jane's, the children's, the neighbours'."""
    return owner.english + ("'" if owner.plural and owner.english.endswith("s") else "'s")


def noun_subject(phrase: NounPhrase) -> Subject:
    """A noun phrase as the subject of a clause; its "son" is "mon"."""
    return Subject(
        french_noun_phrase(phrase),
        english_noun_phrase(phrase),
        5 if phrase.plural else 2,
        phrase.noun.gender,
        (phrase.noun.french,),
        phrase.noun.kinds,
        phrase.combinations,
    )


def coordination(first: Subject, second: Subject) -> Subject:
    """Two names: feminine plural only where both are feminine."""
    gender = "f" if first.gender == second.gender == "f" else "m"
    return Subject(
        f"{first.french} et {second.french}",
        f"{first.english} and {second.english}",
        5,
        gender,
        first.heads + second.heads,
    )


def object_complement(verb: Verb, phrase: NounPhrase, subject: Subject) -> Complement:
    """A direct object: "une pomme", after a negation "de pomme"."""
    return Complement(
        french_noun_phrase(phrase, subject),
        english_noun_phrase(phrase, subject, generic=verb.nature == "taste"),
        (phrase.noun.french,),
        french_noun_phrase(phrase, subject, negated=True),
        phrase.combinations,
    )


def region_complement(verb: Verb, region: Region) -> Complement:
    """A region as an object (la France), as a place (en France) or as an origin (de France)."""
    feminine = region.article == "la"
    if not verb.preposition:
        words = [region.article, region.french]
    elif feminine:
        words = ["en" if verb.preposition == "à" else "de", region.french]
    else:
        words = [verb.preposition, region.article, region.french]
    return Complement(
        " ".join(words), f"{verb.in_region} {region.english}".strip(), (region.french,)
    )


def building_complement(verb: Verb, phrase: NounPhrase) -> Complement:
    """A place with an article: "à le musée", "at the museum"."""
    return Complement(
        f"{verb.preposition} {french_noun_phrase(phrase)}",
        f"{verb.at_building} {english_noun_phrase(phrase)}",
        (phrase.noun.french,),
        combinations=phrase.combinations,
    )


def location_complement(french: str, english: str, landmark: NounPhrase) -> Complement:
    """Where something stands or lies: "à côté de le musée", "next to the museum"."""
    return Complement(
        f"{french} {french_noun_phrase(landmark)}",
        f"{english} {english_noun_phrase(landmark)}",
        (landmark.noun.french,),
        combinations=(*landmark.combinations, (french, landmark.noun.french)),
    )


def quality_complement(adjective: Adjective, subject: Subject) -> Complement:
    """An adjective after "être", which agrees with the subject."""
    french = adjective.agree(subject.gender, subject.plural)
    return Complement(french, adjective.english, (adjective.french,))


def age_complement(years: int) -> Complement:
    """Dix ans, ten years old."""
    number = french_number(years)
    return Complement(f"{number} ans", f"{english_number(years)} years old", (number,))


# Times --------------------------------------------------------------------------------------------


def month(name: str) -> Time:
    """En mai, in May."""
    return Time(f"en {name}", f"in {MONTHS[name]}")


def date(day: int, name: str) -> Time:
    """Le 1er mai, on 1 May."""
    number = "1er" if day == 1 else str(day)
    return Time(f"le {number} {name}", f"on {day} {MONTHS[name]}", ((number, name),))


def hour(number: int, quarter: str = "") -> Time:
    """À huit heures et demie, at half past eight."""
    french = "une heure" if number == 1 else f"{FRENCH_NUMBERS[number]} heures"
    english = ENGLISH_NUMBERS[number]
    words = {  # by quarter
        "": f"at {english} o'clock",
        "et quart": f"at a quarter past {english}",
        "et demie": f"at half past {english}",
        "moins le quart": f"at a quarter to {english}",
    }
    return Time(f"à {french} {quarter}".strip(), words[quarter], ((french, quarter),))


def ago(number: int, unit: str) -> Time:
    """Il y a trois jours, three days ago."""
    french, english = f"{FRENCH_NUMBERS[number]} {unit}", f"{ENGLISH_NUMBERS[number]} {UNITS[unit]}"
    return Time(f"il y a {french}", f"{english} ago", (("il y a", french),))


def within(number: int, unit: str) -> Time:
    """Dans trois jours, in three days."""
    french, english = f"{FRENCH_NUMBERS[number]} {unit}", f"{ENGLISH_NUMBERS[number]} {UNITS[unit]}"
    return Time(f"dans {french}", f"in {english}", (("dans", french),))


# Clauses and sentences ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Clause:
    """Subject, verb and complement, in a tense, with "pas" or another adverb and a time."""

    subject: Subject
    verb: Verb
    complement: Complement
    tense: str = "present"
    adverb: str = ""
    time: Time | None = None

    @property
    def combinations(self) -> tuple[Combination, ...]:
        """What stands in construction: subject, verb and complement in pairs, and their own."""
        verb, heads = self.verb.french, self.complement.heads
        found = [(who, verb) for who in self.subject.heads]
        found += [(verb, what) for what in heads]
        found += [(who, what) for who in self.subject.heads for what in heads]
        if self.adverb:
            found.append((verb, self.tense, self.adverb))
        time = self.time.combinations if self.time else ()
        return (*found, *self.subject.combinations, *self.complement.combinations, *time)


@dataclass(frozen=True)
class PhrasePair:
    """A French sentence, its English translation, and the combinations that it is made of."""

    source: str
    target: str
    combinations: tuple[Combination, ...] = field(default=(), compare=False, repr=False)


def french_clause(clause: Clause) -> str:
    """Subject (ne) verb adverb, then the infinitive or participle, complement and time."""
    finite, rest = _french_verb(clause)
    negated = clause.adverb in ("pas", "jamais")
    complement = clause.complement.negated if negated else ""
    words = [clause.subject.french, "ne" if negated else "", finite, clause.adverb, rest]
    words += [complement or clause.complement.french, clause.time.french if clause.time else ""]
    return " ".join(words)


def _french_verb(clause: Clause) -> tuple[str, str]:
    verb, subject = clause.verb, clause.subject
    if clause.tense == "present":
        return verb.present(subject.person), ""
    if clause.tense != "past":
        return HELPERS[clause.tense].present(subject.person), verb.french
    if not verb.with_etre:
        return AVOIR.present(subject.person), verb.participle
    ending = ("e" if subject.gender == "f" else "") + ("s" if subject.plural else "")
    return ETRE.present(subject.person), verb.participle + ending


def english_clause(clause: Clause, question: bool = False) -> str:
    """Subject, adverb and verb; "do" enters where "not" or a question needs an auxiliary."""
    auxiliary, infinitive = _english_verb(clause)
    adverb = ADVERBS[clause.adverb]
    if question:
        words = [auxiliary, clause.subject.english, adverb, infinitive]
    elif auxiliary in ("do", "does", "did") and adverb != "not":
        words = [clause.subject.english, adverb, _english_finite(clause, infinitive)]
    else:
        words = [clause.subject.english, auxiliary, adverb, infinitive]
    words += [clause.complement.english, clause.time.english if clause.time else ""]
    return " ".join(words)


def _english_verb(clause: Clause) -> tuple[str, str]:
    verb, person = clause.verb, clause.subject.person
    if clause.tense == "future":
        return BE[person], f"going to {verb.english}"
    if clause.tense == "can":
        return "can", verb.english
    if verb.english == "be":
        return BE[person], ""
    if clause.tense == "past":
        return "did", verb.english
    infinitive = f"want to {verb.english}" if clause.tense == "want" else verb.english
    return ("does" if person == 2 else "do"), infinitive


def _english_finite(clause: Clause, infinitive: str) -> str:
    if clause.tense == "past":
        return clause.verb.past
    first, *others = infinitive.split()
    return " ".join([add_s(first) if clause.subject.person == 2 else first, *others])


def statement(clause: Clause, fronted: bool = False) -> PhrasePair:
    """A sentence from a clause; `fronted` puts the time first: "Demain, ...", "Tomorrow, ..."."""
    french, english = french_clause(clause), english_clause(clause)
    if fronted and clause.time:
        rest = replace(clause, time=None)
        french = f"{clause.time.french}, {french_clause(rest)}"
        english = f"{clause.time.english}, {english_clause(rest)}"
    return PhrasePair(french_surface(french), english_surface(english), clause.combinations)


QUESTION_WORDS = {"": "", "quand": "when", "pourquoi": "why"}


def question(clause: Clause, word: str = "") -> PhrasePair:
    """Est-ce que, quand est-ce que, pourquoi est-ce que."""
    french = french_surface(f"{word} est-ce que {french_clause(clause)}".strip(), " ?")
    english = english_surface(f"{QUESTION_WORDS[word]} {english_clause(clause, True)}".strip(), "?")
    return PhrasePair(french, english, clause.combinations)


def report(reporter: Subject, verb: Verb, clause: Clause) -> PhrasePair:
    """Je pense que, Jane sait que: a clause inside a clause."""
    outer = Clause(reporter, verb, Complement("que", "that"))
    return PhrasePair(
        french_surface(f"{french_clause(outer)} {french_clause(clause)}"),
        english_surface(f"{english_clause(outer)} {english_clause(clause)}"),
        outer.combinations + clause.combinations,
    )


def existence(phrase: NounPhrase, place: Complement, form: str = "statement") -> PhrasePair:
    """Il y a un chat, there is a cat; `form` is "statement", "negation" or "question"."""
    be = "are" if phrase.plural else "is"
    noun, none = french_noun_phrase(phrase), french_noun_phrase(phrase, negated=True)
    english = english_noun_phrase(phrase)
    english_none = english_noun_phrase(replace(phrase, determiner="no"))
    french, english, mark = {
        "statement": (f"il y a {noun}", f"there {be} {english}", "."),
        "negation": (f"il ne y a pas {none}", f"there {be} {english_none}", "."),
        "question": (f"est-ce que il y a {noun}", f"{be} there {english}", "?"),
    }[form]
    found = (*phrase.combinations, *place.combinations, (phrase.noun.french, *place.heads))
    return PhrasePair(
        french_surface(f"{french} {place.french}", " ?" if mark == "?" else mark),
        english_surface(f"{english} {place.english}", mark),
        found,
    )
