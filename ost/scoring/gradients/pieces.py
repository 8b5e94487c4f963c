"""How many pieces the images of each sample are cut into, by patches, tiles or tokens: what vision rows go by."""

from collections.abc import Iterator, Sequence

from torch import Tensor
from transformers import PreTrainedModel

from ost.encoding import Batch


def image_token(model: PreTrainedModel) -> int | None:
    """The token that stands for a piece of an image, where the configuration names it."""
    named = (getattr(model.config, name, None) for name in ("image_token_id", "image_token_index", "image_patch_id"))
    return next((token for token in named if token is not None), None)


def pieces_by_sample(batch: Batch, images: Sequence[int], token: int | None) -> list[int]:
    """(B,) numbers in proportion to which a vision tower has rows for each sample; zeros where nobody can tell.

    `images`: how many each sample has. Patches are counted where a batch tells the grid of each image, tiles where each
    image, or sample, has a row of them, padded with zeros. Else the `token`s of each sample are: where all tiles have
    one size, an image has as many for each, and so it has for each patch where sizes differ.
    """
    pixels = next((own for name, own in batch.items() if name.startswith("pixel_values")), None)
    grid = next((own for name, own in batch.items() if "grid" in name and len(own) == sum(images)), None)
    if grid is not None:
        return list(_sums(grid.prod(dim=-1), images))
    if pixels is not None and pixels.dim() == 5 and len(pixels) in (len(images), sum(images)):
        tiles = (pixels != 0).flatten(2).any(dim=-1).sum(dim=1)
        by_sample = len(pixels) == len(images) and [own > 0 for own in tiles.tolist()] == [own > 0 for own in images]
        return tiles.tolist() if by_sample else list(_sums(tiles, images))
    sized = any(len(own) == sum(images) for name, own in batch.items() if "size" in name or "shape" in name)
    if pixels is None or (pixels.dim() == 4 and len(pixels) == sum(images) and not sized):
        return list(images)
    return [0] * len(images) if token is None else (batch["input_ids"] == token).sum(dim=1).tolist()


def _sums(values: Tensor, counts: Sequence[int]) -> Iterator[int]:
    """Sums of as many values, one behind the other, as each of the counts says."""
    for part in values.split(list(counts)):
        yield int(part.sum())
