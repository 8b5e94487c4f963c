"""From a record's fields to chat turns, whatever project's names they have."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ost.formats.fields import DIALECTS, UNSUPPORTED, filled
from ost.formats.reject import Rejected, show

USER, ASSISTANT, SYSTEM = "user", "assistant", "system"

_NAMES = {SYSTEM: ("system", "developer"), USER: ("user", "human"), ASSISTANT: ("assistant", "gpt", "bot", "model")}
ROLES = {name: role for role, names in _NAMES.items() for name in names}
TOOL_ROLES = frozenset(
    ("tool", "function", "function_call", "function_response", "observation", "tool_call", "tool_response", "ipython")
)

OWN_IMAGE = ("image", "path", "url", "base64", "bytes", "image_url")
"""Where an image part may hold its image itself."""


@dataclass(slots=True)
class Picture:
    """An image part, with the image that it holds itself."""

    value: Any = None


@dataclass(slots=True)
class Turn:
    """A chat turn; `parts` are text or pictures."""

    role: str
    parts: list[str | Picture]
    learned: bool = True
    reasoning: str = ""


@dataclass(slots=True)
class Turns:
    """A record's turns, and the names of what was, and was not, read for them."""

    turns: list[Turn]
    read: tuple[str, ...]
    unread: set[str] = field(default_factory=set)


def read_turns(fields: Mapping[str, Any]) -> Turns:
    """The turns of a record in the first of DIALECTS that it has.

    Raises Rejected with `malformed`, `unsupported` or `empty-answer`.
    """
    names = next((names for names in DIALECTS if all(fields.get(name) is not None for name in names)), None)
    if names is None:
        found = ", ".join(name for name, value in fields.items() if value is not None)
        wanted = "; ".join(" and ".join(f"`{name}`" for name in names) for names in DIALECTS)
        raise Rejected("malformed", f"no chat turns: one of {wanted}; found {show(found)}. See data.columns")
    read = Turns([], names)
    READERS[names](fields, read)
    _add_system(fields, read.turns)
    _check(read.turns, names)
    return read


def text(value: Any, name: str) -> str:
    """The value, where it is text that a tokenizer and a table take; raises Rejected where it is not."""
    if not isinstance(value, str):
        raise Rejected("malformed", f"{name} must be text; found {show(value)}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
            raise Rejected("malformed", f"{name} is not valid Unicode: {show(value)}") from error
    return value


def refuse_unsupported(values: Mapping[str, Any], place: str) -> None:
    """Raise Rejected where a field is filled that changes the meaning in a way that is not read."""
    for name in UNSUPPORTED:
        if name in values and (value := values[name]):
            if name == "loss_scale" and value == 1:
                continue
            raise Rejected("unsupported", f"{place} has `{name}`, which is not read: {show(value)}")


def _messages(fields: Mapping[str, Any], read: Turns) -> None:
    name = read.read[0]
    read.turns += _listed(fields[name], f"`{name}`", read)


def _texts(fields: Mapping[str, Any], read: Turns) -> None:
    for value in _list(fields["texts"], "`texts`"):
        if not isinstance(value, dict):
            raise Rejected("malformed", f"each of `texts` must hold `user` and `assistant`; found {show(value)}")
        read.turns += [_simple(role, value.get(role), f"`{role}`") for role in (USER, ASSISTANT)]
        read.unread |= {f"texts.{key}" for key in value.keys() - {USER, ASSISTANT} if filled(value[key])}


def _prompt(fields: Mapping[str, Any], read: Turns) -> None:
    """TRL's: the loss is on the completion alone, so that answers within the prompt are context."""
    prompt, completion = fields["prompt"], fields["completion"]
    context = [_simple(USER, prompt, "`prompt`")] if isinstance(prompt, str) else _listed(prompt, "`prompt`", read)
    for turn in context:
        turn.learned = False
    listed = isinstance(completion, str)
    answer = [_simple(ASSISTANT, completion, "")] if listed else _listed(completion, "`completion`", read)
    read.turns += context + answer


def _query(fields: Mapping[str, Any], read: Turns) -> None:
    for pair in _list(fields.get("history") or [], "`history`", empty=True):
        if not isinstance(pair, list) or len(pair) != 2:
            raise Rejected("malformed", f"each of `history` must be a query and a response; found {show(pair)}")
        read.turns += [_simple(USER, pair[0], "a query"), _simple(ASSISTANT, pair[1], "a response")]
    read.turns += [_simple(USER, fields["query"], "`query`"), _simple(ASSISTANT, fields["response"], "`response`")]
    read.read += ("history",)


def _context(fields: Mapping[str, Any], read: Turns) -> None:
    """energon's VQASample: of several answers, the one that most agree on is learned, the first of equals."""
    answers = fields["answers"]
    if isinstance(answers, list):
        texts = [text(answer, "each of `answers`") for answer in _list(answers, "`answers`")]
        answers = Counter(texts).most_common(1)[0][0]
        if len(set(texts)) > 1:
            read.unread.add("answers[1:]")
    read.turns += [_simple(USER, fields["context"], "`context`"), _simple(ASSISTANT, answers, "`answers`")]


READERS = dict(zip(DIALECTS, (_messages, _messages, _texts, _prompt, _query, _context), strict=True))


def _list(value: Any, name: str, empty: bool = False) -> list:
    if not isinstance(value, list) or not (value or empty):
        raise Rejected("malformed", f"{name} must be a list of chat turns; found {show(value)}")
    return value


def _simple(role: str, value: Any, name: str) -> Turn:
    return Turn(role, [text(value, name)])


def _listed(value: Any, name: str, read: Turns) -> list[Turn]:
    return [_turn(turn, read) for turn in _list(value, name)]


def _turn(value: Any, read: Turns) -> Turn:
    if not isinstance(value, dict):
        raise Rejected("malformed", f"a message must hold `role` and `content`; found {show(value)}")
    role, content = value.get("role"), value.get("content")
    if role is None and content is None:
        role, content = value.get("from"), value.get("value")
    role = _role(role)
    if len(value) > 2:
        refuse_unsupported(value, "a message")
    turn = Turn(role, _parts(content, read))
    if len(value) > 2:
        _extras(value, turn, read)
    return turn


def _role(value: Any) -> str:
    name = value.lower() if isinstance(value, str) else ""
    if name in ROLES:
        return ROLES[name]
    if name in TOOL_ROLES:
        raise Rejected("unsupported", f"a message is by the {name}: calls of tools are not read")
    raise Rejected("malformed", f"the role must be one of {', '.join(ROLES)}; found {show(value)}")


def _parts(content: Any, read: Turns) -> list[str | Picture]:
    if isinstance(content, str):
        return [text(content, "`content`")]
    if not isinstance(content, list):
        raise Rejected("malformed", f"`content` must be text or a list of parts; found {show(content)}")
    return [_part(part, read) for part in content]


def _part(value: Any, read: Turns) -> str | Picture:
    if not isinstance(value, dict):
        raise Rejected("malformed", f"a part must be of type image or text; found {show(value)}")
    own = [name for name in OWN_IMAGE if value.get(name) is not None]
    words, kind = value.get("text"), value.get("type")
    if kind is None and len(own) + (words is not None) == 1:  # Qwen's: {"image": …} and {"text": …}
        kind = "image" if own else "text"
    if kind == "text" and not own:
        return text(words, "a text part")
    if kind in ("image", "image_url") and words is None and len(own) <= 1:
        read.unread |= {f"part.{key}" for key in value.keys() - {"type", "text", *own} if filled(value[key])}
        return Picture(value[own[0]] if own else None)
    if isinstance(kind, str) and ("video" in kind or "audio" in kind):
        raise Rejected("unsupported", f"a part is of type {show(kind)}; only images and text are read")
    raise Rejected("malformed", f"a part must be one image or one text; found {show(value)}")


def _extras(value: Mapping[str, Any], turn: Turn, read: Turns) -> None:
    """What a message may hold besides: whether it is learned, and its reasoning."""
    for name, extra in value.items():
        if extra is None or name in ("role", "content", "from", "value", *UNSUPPORTED):
            continue
        if name in ("loss", "weight"):  # ms-swift's; OpenAI's
            if extra not in (0, 1) or (extra and name == "loss" and turn.role != ASSISTANT):
                raise Rejected("unsupported", f"`{name}` of a message by the {turn.role} is {show(extra)}")
            turn.learned = turn.learned and bool(extra)
        elif name == "reasoning_content" and turn.role == ASSISTANT:
            turn.reasoning = text(extra, "`reasoning_content`")
        elif filled(extra):
            read.unread.add(f"message.{name}")


def _add_system(fields: Mapping[str, Any], turns: list[Turn]) -> None:
    words = fields.get("system")
    if words is None or words == "":
        return
    words = text(words, "`system`")
    if turns[0].role != SYSTEM:
        turns.insert(0, Turn(SYSTEM, [words]))
    elif turns[0].parts != [words]:
        raise Rejected("malformed", "`system` and the messages' own system turn differ; keep one of them")


def _check(turns: list[Turn], names: tuple[str, ...]) -> None:
    roles = [turn.role for turn in turns]
    if roles[-1] != ASSISTANT:
        raise Rejected("malformed", f"the last message must be the assistant's answer; it is by the {roles[-1]}")
    if USER not in roles:
        raise Rejected("malformed", "no message is by the user, so nothing was asked")
    if not any(turn.learned for turn in turns if turn.role == ASSISTANT):
        raise Rejected("empty-answer", "no answer is to be learned: `loss` is false for each")
