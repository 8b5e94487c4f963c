"""Pixels of images for tiny models of many families, in each family's own layout; random by an image's bytes."""

import zlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ost.encoding import Batch

Images = Sequence[bytes]
Rows = Sequence[Images]
"""The images of each sample."""
Pixels = Callable[[PreTrainedModel, Rows], Batch]
GRIDS = ((4, 4), (4, 6), (6, 4), (2, 4))
SIZES = ((32, 32), (32, 16), (16, 32), (32, 32))


def _noise(image: bytes, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(zlib.crc32(image) % 2**31))


def _one_of(options: Sequence, image: bytes):
    return options[zlib.crc32(image) % len(options)]


def _flat(rows: Rows) -> list[bytes]:
    return [image for images in rows for image in images]


def squares(size: int = 32, names: Sequence[str] = ("pixel_values",)) -> Pixels:
    """(N, 3, H, W)"""
    return lambda model, rows: {
        name: torch.cat([_noise(own, 1, 3, size, size) for own in _flat(rows)]) for name in names
    }


def patches(shape: tuple[int, ...] | None = None, name: str = "image_grid_thw", grids: Sequence = GRIDS) -> Pixels:
    """(patches, d) and the grid of each image."""

    def pixels(model: PreTrainedModel, rows: Rows) -> Batch:
        images, own = [(image, _one_of(grids, image)) for image in _flat(rows)], shape
        if own is None:
            vision = model.config.vision_config
            edge = vision.patch_size if isinstance(vision.patch_size, int) else vision.patch_size[0]
            channels = next(
                getattr(vision, key) for key in ("in_channels", "in_chans", "num_channels") if hasattr(vision, key)
            )
            own = (channels * getattr(vision, "temporal_patch_size", 1) * edge**2,)
        time = (1,) if name.endswith("thw") else ()
        return {
            "pixel_values": torch.cat([_noise(image, height * width, *own) for image, (height, width) in images]),
            name: torch.tensor([[*time, *grid] for _, grid in images]),
        }

    return pixels


def sized(model: PreTrainedModel, rows: Rows) -> Batch:
    """(N, 3, H, W), the smaller ones padded, and their sizes."""
    sizes = [_one_of(SIZES, image) for image in _flat(rows)]
    pixels = torch.zeros(len(sizes), 3, 32, 32)
    for at, (image, (height, width)) in enumerate(zip(_flat(rows), sizes, strict=True)):
        pixels[at, :, :height, :width] = _noise(image, 3, height, width)
    return {"pixel_values": pixels, "image_sizes": torch.tensor(sizes)}


def tiled(model: PreTrainedModel, rows: Rows) -> Batch:
    """(N, tiles, 3, H, W), padded, and the images' sizes."""
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    sizes = [_one_of(SIZES, image) for image in _flat(rows)]
    tiles = [image_size_to_num_patches(size, model.config.image_grid_pinpoints, 32) for size in sizes]
    pixels = torch.zeros(len(sizes), max(tiles), 3, 32, 32)
    for at, (image, count) in enumerate(zip(_flat(rows), tiles, strict=True)):
        pixels[at, :count] = _noise(image, count, 3, 32, 32)
    return {"pixel_values": pixels, "image_sizes": torch.tensor(sizes)}


def by_sample(dtype: torch.dtype = torch.long, whole: bool = True) -> Pixels:
    """(B, images, 3, H, W), padded, and a mask of pixels, or of images."""

    def pixels(model: PreTrainedModel, rows: Rows) -> Batch:
        most = max(1, *map(len, rows)) if len(rows) > 1 else max(1, len(rows[0]))
        values = torch.zeros(len(rows), most, 3, 32, 32)
        mask = torch.zeros((len(rows), most, 32, 32) if whole else (len(rows), most), dtype=dtype)
        for at, images in enumerate(rows):
            for place, image in enumerate(images):
                values[at, place], mask[at, place] = _noise(image, 3, 32, 32), 1
        return {"pixel_values": values, "pixel_attention_mask": mask}

    return pixels


def listed(model: PreTrainedModel, rows: Rows) -> Batch:
    """(N, 24, d) patches, padded, and where they stand, or how many there are."""
    images, kind = _flat(rows), model.config.model_type
    pixels, places = torch.zeros(len(images), 24, 192), torch.full((len(images), 24, 2), -1)
    mask = torch.zeros(len(images), 24, dtype=torch.long)
    for at, image in enumerate(images):
        height, width = _one_of(GRIDS, image)
        own = _noise(image, height * width, 192)
        pixels[at, : len(own)], mask[at, : len(own)] = own if kind == "lfm2_vl" else own.sigmoid(), 1
        grid = torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy")
        places[at, : len(own)] = torch.stack(grid, dim=-1).reshape(-1, 2)
    if kind != "lfm2_vl":
        return {"pixel_values": pixels, "image_position_ids": places}
    shapes = torch.tensor([_one_of(GRIDS, image) for image in images])
    return {"pixel_values": pixels, "spatial_shapes": shapes, "pixel_attention_mask": mask}


def strips(model: PreTrainedModel, rows: Rows) -> Batch:
    """(1, 3, patch, all patches) and their counts."""
    grids = [_one_of(((4, 4), (4, 8), (8, 4), (4, 4)), image) for image in _flat(rows)]
    strips = [_noise(image, 3, 8, 8 * high * wide) for image, (high, wide) in zip(_flat(rows), grids, strict=True)]
    return {"pixel_values": torch.cat(strips, dim=-1)[None], "target_sizes": torch.tensor(grids, dtype=torch.int32)}


def crossed(model: PreTrainedModel, rows: Rows) -> Batch:
    """(B, images, tiles, 3, H, W), for cross attention."""
    most = max(map(len, rows))
    values, ratios = torch.zeros(len(rows), most, 2, 3, 32, 32), torch.zeros(len(rows), most, dtype=torch.long)
    mask = torch.zeros(len(rows), most, 2, dtype=torch.long)
    mask[:, :, 0] = 1
    for at, images in enumerate(rows):
        for place, image in enumerate(images):
            tiles = _one_of((1, 2), image)
            values[at, place, :tiles], ratios[at, place] = _noise(image, tiles, 3, 32, 32), tiles
            mask[at, place, :tiles] = 1
    return {"pixel_values": values, "aspect_ratio_ids": ratios, "aspect_ratio_mask": mask}


def two_sizes(model: PreTrainedModel, rows: Rows) -> Batch:
    return squares()(model, rows) | squares(64, ("high_res_pixel_values",))(model, rows)


def pooled(model: PreTrainedModel, rows: Rows) -> Batch:
    """One crop of 4 × 4 patches an image, pooled by two and two."""
    count, corner = len(_flat(rows)), torch.tensor([[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]])
    return {
        "pixel_values": torch.cat([_noise(image, 1, 16, 192) for image in _flat(rows)]),
        "image_token_pooling": torch.cat([corner + 16 * at for at in range(count)]),
        "image_grids": torch.tensor([[2, 2, 0, 0]] * count),
        "image_num_crops": torch.ones(count, dtype=torch.long),
    }


def merging(model: PreTrainedModel, rows: Rows) -> Batch:
    return patches((192,))(model, rows) | {"image_merge_sizes": torch.ones(len(_flat(rows)), dtype=torch.long)}


def coded(model: PreTrainedModel, rows: Rows) -> Batch:
    return {
        "pixel_values": torch.cat([_noise(image, 1, 3, 16, 16) for image in _flat(rows)]),
        "image_sizes": torch.tensor([[16, 16]] * len(_flat(rows))),
    }


def raw(model: PreTrainedModel, rows: Rows) -> Batch:
    width = model.config.patch_size**2 * model.config.num_channels
    return {"image_patches": torch.stack([_noise(image, 4, width) for image in _flat(rows)])}
