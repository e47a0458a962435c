"""Writes the demo's text, and trains a run on it."""

import dataclasses
from pathlib import Path

from training.command_line.errors import InputError
from training.phrases.grammar import make_pairs
from training.runs.files import write_text
from training.runs.folder import RunFolder
from training.settings import TrainingSettings

CONFIG = Path(__file__).parents[1] / "configs" / "demo.yaml"
LANGUAGES = {"source": "fr", "target": "en"}

Pair = tuple[str, str]

# Each sentence has a held-out combination.
SHOWN_SENTENCES: tuple[Pair, ...] = (
    ("Jane visite l'Afrique en septembre.", "Jane visits Africa in September."),
    (
        "Ma voisine n'a pas trouvé de belles montres anglaises.",
        "My neighbour did not find beautiful English watches.",
    ),
    (
        "Est-ce que mon vieil ami lit son livre italien ?",
        "Does my old friend read his Italian book?",
    ),
    (
        "Elle a mangé les œufs verts de David il y a deux jours.",
        "She ate David's green eggs two days ago.",
    ),
    (
        "Je pense que Jane et Sophie sont souvent allées aux Pays-Bas.",
        "I think that Jane and Sophie often went to the Netherlands.",
    ),
    (
        "Il y a trois chevaux blancs à côté de la vieille gare.",
        "There are three white horses next to the old station.",
    ),
    (
        "À onze heures et demie, Anne et Claire vont arriver aux États-Unis.",
        "At half past eleven, Anne and Claire are going to arrive in the United States.",
    ),
    ("L'infirmière a quatre-vingt-quatorze ans.", "The nurse is ninety-four years old."),
    (
        "Pourquoi est-ce que l'étudiante ne veut pas visiter le nouvel hôpital ?",
        "Why does the student not want to visit the new hospital?",
    ),
    ("Jane ne vend jamais de haricots.", "Jane never sells beans."),
)


@dataclasses.dataclass(frozen=True)
class DemoText:
    """The demo's text in a folder: train.fr and train.en, likewise for validation and test."""

    folder: Path

    def write(self, num_pairs: int) -> list[Pair]:
        """Writes a new text, and returns its test pairs.

        Raises:
            InputError: If num_pairs is out of range.
        """
        try:
            corpus = make_pairs(num_pairs)
        except ValueError as error:
            raise InputError(str(error)) from error
        self.folder.mkdir(parents=True, exist_ok=True)
        for split in ("train", "validation", "test"):
            for side in LANGUAGES:
                lines = [getattr(pair, side) for pair in getattr(corpus, split)]
                write_text(self.path(split, side), "".join(line + "\n" for line in lines))
        print(
            f"{self.folder}: {len(corpus.train):,} pairs for training, {len(corpus.validation):,}"
            f" for validation, {len(corpus.test):,} held out. The first three:"
        )
        for pair in corpus.train[:3]:
            print(f"  {pair.source}\n    {pair.target}")
        return [(pair.source, pair.target) for pair in corpus.test]

    def path(self, split: str, side: str) -> Path:
        return self.folder / f"{split}.{LANGUAGES[side]}"

    def data_settings(self) -> dict[str, str]:
        """Returns the four settings of `training.train` that name its data."""
        return {
            f"{split}_{side}": str(self.path(split, side))
            for split in ("train", "validation")
            for side in LANGUAGES
        }


def train_run(settings: TrainingSettings, run: Path, *, overwrite: bool) -> None:
    """Trains a run, or resumes it; replaces a finished run only if the demo trained it."""
    from training.runs.training import train

    train(settings, str(run), overwrite=overwrite or _is_of_the_demo(run, settings))


def _is_of_the_demo(run: Path, settings: TrainingSettings) -> bool:
    """Whether the folder has a run on the demo's text, with any settings."""
    if RunFolder(run).is_blank:
        return False
    earlier = RunFolder(run).read_record().settings
    return earlier.train_source == settings.train_source
