"""Real processors of many families, with tiny vocabularies and images; those that need no torchvision.

Their classes are transformers' own. Tokens of a text are its bytes, beside the tokens that each family adds.
"""

from collections.abc import Callable

import transformers as T
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AddedToken, PreTrainedTokenizerFast

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for p in m.content %}{% if p.type == 'image' %}IMAGE"
    "{% else %}{{ p.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SQUARE = {"height": 32, "width": 32}
FAMILIES: dict[str, Callable[[], T.ProcessorMixin]] = {}


def tokenizer(image: str, named: dict[str, str], special: tuple[str, ...] = (), template: str = CHATML):
    """A byte-level tokenizer with a family's own tokens, and a template that writes `image` for an image."""
    tokens = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", *dict.fromkeys([*special, *named.values()])]
    vocabulary = {token: at for at, token in enumerate([*tokens, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=named,
        model_max_length=4096,
    )
    made.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    made.chat_template = template.replace("IMAGE", image)
    return made


def family(build: Callable[[], T.ProcessorMixin]) -> Callable[[], T.ProcessorMixin]:
    """Adds a family under the name of the function that builds its processor."""
    FAMILIES[build.__name__] = build
    return build


@family
def qwen3_vl():
    from ost.models.processor import ImageOnlyQwen3VLProcessor

    marks = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    own = tokenizer("<|vision_start|><|image_pad|><|vision_end|>", {}, marks)
    images = T.Qwen2VLImageProcessorPil(
        patch_size=8, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 256, "longest_edge": 4096}
    )
    return ImageOnlyQwen3VLProcessor(images, own, chat_template=own.chat_template)


@family
def idefics3():
    parts = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    own = tokenizer(
        "<image>",
        {"image_token": "<image>"},
        ("<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *parts),
    )
    images = T.Idefics3ImageProcessorPil(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}, do_image_splitting=True
    )
    return T.Idefics3Processor(images, own, image_seq_len=4, chat_template=own.chat_template)


@family
def idefics2():
    named = {
        "image_token": "<image>",
        "image_boundary_token": "<fake_token_around_image>",
        "end_of_utterance_token": "<end_of_utterance>",
    }
    own = tokenizer("<image>", named)
    images = T.Idefics2ImageProcessorPil(size={"longest_edge": 32, "shortest_edge": 32}, do_image_splitting=False)
    return T.Idefics2Processor(images, own, image_seq_len=4, chat_template=own.chat_template)


@family
def llava():
    own = tokenizer("<image>", {"image_token": "<image>"})
    images = T.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=SQUARE)
    return T.LlavaProcessor(
        images,
        own,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=own.chat_template,
    )


@family
def llava_next():
    own = tokenizer("<image>", {"image_token": "<image>", "video_token": "<video>"})
    images = T.LlavaNextImageProcessorPil(
        size={"shortest_edge": 32},
        crop_size=SQUARE,
        image_grid_pinpoints=[[32, 32], [32, 64], [64, 32], [64, 64], [32, 96]],
    )
    return T.LlavaNextProcessor(
        images,
        own,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=own.chat_template,
    )


@family
def gemma3():
    named = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    own = tokenizer("<start_of_image>", named)
    return T.Gemma3Processor(
        T.Gemma3ImageProcessorPil(size=SQUARE), own, image_seq_length=4, chat_template=own.chat_template
    )


@family
def paligemma():
    template = (
        "{% for m in messages %}{% for p in m.content %}"
        "{% if p.type == 'image' %}IMAGE{% else %}{{ p.text }}{% endif %}{% endfor %}"
        "{% if m.role == 'user' %}\n{% endif %}{% endfor %}"
    )
    own = tokenizer("<image>", {"image_token": "<image>"}, template=template)
    images = T.SiglipImageProcessorPil(size=SQUARE)
    images.image_seq_length = 16
    return T.PaliGemmaProcessor(images, own, chat_template=own.chat_template)


@family
def ovis2():
    named = {"image_token": "<image>", "image_atom": "<image_atom>"} | {
        f"i{at}": token for at, token in enumerate(("<img>", "<pre>", "<col>", "<row>", "</img>"))
    }
    own = tokenizer("<image>", named)
    images = T.Ovis2ImageProcessorPil(size=SQUARE, crop_to_patches=True, min_patches=1, max_patches=4)
    return T.Ovis2Processor(images, own, image_seq_length=4, chat_template=own.chat_template)


@family
def mllama():
    own = tokenizer("<|image|>", {"image_token": "<|image|>"}, ("<|python_tag|>",))
    images = T.MllamaImageProcessorPil(size=SQUARE, max_image_tiles=2)
    return T.MllamaProcessor(images, own, chat_template=own.chat_template)


@family
def deepseek_vl():
    own = tokenizer("<image_placeholder>", {"image_token": "<image_placeholder>"})
    images = T.DeepseekVLImageProcessorPil(size=SQUARE, min_size=8)
    return T.DeepseekVLProcessor(images, own, chat_template=own.chat_template, num_image_tokens=16)


@family
def janus():
    named = {
        "image_token": "<image_placeholder>",
        "boi_token": "<begin_of_image>",
        "eoi_token": "<end_of_image>",
    }
    own = tokenizer("<image_placeholder>", named)
    images = T.JanusImageProcessorPil(size=SQUARE, min_size=8)
    return T.JanusProcessor(images, own, chat_template=own.chat_template, num_image_tokens=16)
