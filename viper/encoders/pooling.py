"""How a text network's states become one vector: the rule of its family, found by asking the network itself.

A causal network's last word has seen all others, a bidirectional one's class token is trained to stand for all, and
where there is neither the mean of all words is taken. sentence-transformers says it in a file, which is followed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from viper.encoders.claims import MODULES, POOLING, read_settings
from viper.errors import UserError
from viper.files import read_json

if TYPE_CHECKING:
    import torch

CLS, MEAN, LAST = "cls", "mean", "last"
# The names in 1_Pooling/config.json -> ours; the first as a flag of its own, in newer files as `pooling_mode`.
_PUBLISHED = {
    "cls": CLS, "cls_token": CLS, "mean": MEAN, "mean_tokens": MEAN, "lasttoken": LAST, "max": "max",
    "max_tokens": "max", "weightedmean": "weighted", "weightedmean_tokens": "weighted",
    "mean_sqrt_len_tokens": "root", "mean_sqrt_len": "root",
}  # fmt: skip
# What sentence-transformers may do to a vector after pooling; scaling it to length 1 changes nothing that viper reads.
_STEPS = ("Transformer", "Pooling", "Normalize")


def published_pooling(folder: Path) -> str | None:
    """Return the pooling a folder of sentence-transformers asks for; None where it has no 1_Pooling/config.json.

    Modes that are not known, or several at once, are a UserError.
    """
    path = folder / POOLING
    if not path.is_file():
        return None
    settings = read_settings(path)
    found = [
        name.removeprefix("pooling_mode_") for name, value in settings.items()
        if name.startswith("pooling_mode_") and value is True
    ]  # fmt: skip
    if isinstance(settings.get("pooling_mode"), str):
        found = [settings["pooling_mode"]]
    if len(found) != 1 or found[0] not in _PUBLISHED:
        raise UserError(
            f"{path}: asks for {', '.join(found) or 'no pooling'}; one of cls, mean, max, lasttoken is read"
        )
    return _PUBLISHED[found[0]]


def further_steps(folder: Path) -> list[str]:
    """Return what a folder of sentence-transformers does to a vector beyond pooling, such as 2_Dense."""
    path = folder / MODULES
    modules = read_json(path) if path.is_file() else []
    steps = [each for each in modules if isinstance(each, dict)] if isinstance(modules, list) else []
    return [
        str(each.get("path", ""))[:80] or "a step" for each in steps
        if str(each.get("type", "")).rpartition(".")[2] not in _STEPS
    ]  # fmt: skip


def family_pooling(config: Any, is_causal: bool, ids: list[int], cls_id: int | None) -> str:
    """Return the pooling of a network without a file that says it.

    Parameters
    ----------
    config : the network's.
    is_causal : whether no word sees those behind it.
    ids : a sentence as its tokenizer gives it.
    cls_id : the class token's, if there is one.
    """
    if is_causal:
        return LAST
    if getattr(config, "is_encoder_decoder", False):
        return MEAN
    # XLM and Flaubert begin with, XLNet ends with what stands for all, whatever the tokenizer calls it.
    said = getattr(config, "classifier_pooling", None) or getattr(config, "summary_type", None)
    known = {"first": CLS, "last": LAST, "mean": MEAN, "cls": CLS, "bos": CLS}
    if isinstance(said, str) and said in known:
        return known[said]
    if cls_id is not None and cls_id in (ids[0], ids[-1]):
        return CLS if ids[0] == cls_id else LAST
    return MEAN


def pooled(hidden: torch.Tensor, mask: torch.Tensor, pool: str) -> torch.Tensor:
    """Return (B, D) of hidden states (B, T, D) whose words are those of `mask` (B, T), at the beginning of each row.

    A network that answers one vector a sentence (B, D) is taken at its word. ValueError where states are not one a
    word, and words have to be told from padding.
    """
    import torch

    if hidden.ndim == 2:
        return hidden
    if pool == CLS:
        return hidden[:, 0]
    if hidden.shape[:2] != mask.shape:
        raise ValueError(f"it gives {hidden.shape[1]} states for {mask.shape[1]} words")
    if pool == LAST:
        last = mask.sum(dim=1) - 1
        return hidden[torch.arange(len(hidden), device=hidden.device), last]
    hidden, words = hidden.float(), mask.unsqueeze(-1).float()
    if pool == "max":
        return hidden.masked_fill(words == 0, -torch.inf).amax(dim=1)
    if pool == "weighted":
        words = words * torch.arange(1, mask.shape[1] + 1, device=hidden.device).view(1, -1, 1)
    total = words.sum(dim=1)
    return (hidden * words).sum(dim=1) / (total.sqrt() if pool == "root" else total)
