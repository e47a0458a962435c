"""Computes BLEU and chrF with sacreBLEU."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Scores:
    """BLEU and chrF, as `training.evaluate --json` writes them.

    Attributes:
        bleu: Corpus BLEU of sacreBLEU, 0 to 100.
        bleu_signature: How sacreBLEU computed it; compare only scores with the same signature.
        chrf: Corpus chrF of sacreBLEU, 0 to 100.
        chrf_signature: How sacreBLEU computed it.
        num_sentences: The number of sentences.
    """

    bleu: float
    bleu_signature: str
    chrf: float
    chrf_signature: str
    num_sentences: int


def score(hypotheses: list[str], references: list[str], bleu_tokenizer: str = "13a") -> Scores:
    """Computes corpus BLEU and chrF.

    Args:
        hypotheses: The translations to score.
        references: The reference translations, in the same order.
        bleu_tokenizer: How sacreBLEU splits both into words.
    """
    from sacrebleu.metrics import BLEU, CHRF

    # force: do not warn that text looks tokenized if the user says that it is.
    bleu = BLEU(tokenize=bleu_tokenizer, force=bleu_tokenizer == "none")
    chrf = CHRF()
    return Scores(
        bleu=bleu.corpus_score(hypotheses, [references]).score,
        bleu_signature=str(bleu.get_signature()),
        chrf=chrf.corpus_score(hypotheses, [references]).score,
        chrf_signature=str(chrf.get_signature()),
        num_sentences=len(hypotheses),
    )
