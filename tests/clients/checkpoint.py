"""A tiny LLaVA that every client can load: its image token is the one that their LLaVA templates write."""

from pathlib import Path

from ost.worlds.tiny import PROXY, build_llava, build_processor

IMAGE_TOKENS = 16
"""Tokens an image takes, of any size."""
# Assistant turns in generation marks, which TRL finds the learned tokens by; one "\n" behind an image, as LLaVA has it.
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content[0].text }}<|im_end|>{% endgeneration %}\n{% else %}"
    "{% for part in message.content %}{{ '<image>\n' if part.type == 'image' else part.text }}{% endfor %}"
    "<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_checkpoint(folder: Path) -> Path:
    """Save one, with random weights and a tokenizer that can spell any text."""
    tokenizer = build_processor(["which of them is larger?", "the second"]).tokenizer
    build_llava(PROXY, tokenizer, seed=0).save(folder)
    for file in [*folder.glob("*.json"), *folder.glob("*.jinja")]:
        file.write_text(file.read_text().replace("<|image_pad|>", "<image>"))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder
