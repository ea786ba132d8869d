"""Tokens and their ids, added tokens, and which token plays which role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from garden.tokenizers.added_tokens import AddedToken

DEFAULT_ROLES = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}


class Vocabulary:
    """What a tokenizer knows of its tokens. A plain object, so that TensorFlow does not look for variables in it.

    tokens: those of the model, in id order. roles: pad, unk, cls, sep, mask, bos, eos -> token; a role whose token is
    not there is dropped. added_tokens: default: the tokens with a role, as special ones. unnamed: ids that
    their spelling does not lead to, such as gaps, whose token is "". Raises TypeError or ValueError that names the token
    which is not a string, occurs twice, or has another id than its place.
    """

    def __init__(
        self,
        tokens: Sequence[str],
        roles: Mapping[str, str],
        added_tokens: Sequence[AddedToken] | None = None,
        default_roles: Mapping[str, str] = DEFAULT_ROLES,
        unnamed: frozenset[int] = frozenset(),
    ):
        self.tokens = list(tokens)
        for token in self.tokens:
            if not isinstance(token, str):
                raise TypeError(f"vocabulary: expected strings, got {token!r}")
        self.ids = {token: token_id for token_id, token in enumerate(self.tokens) if token_id not in unnamed}
        if len(self.ids) != len(self.tokens) - len(unnamed):
            twice = next(
                token for token_id, token in enumerate(self.tokens) if self.ids.get(token, token_id) != token_id
            )
            raise ValueError(f'vocabulary: token "{twice}" occurs more than once; its id would be ambiguous')
        self.unnamed = unnamed
        self.model_size = len(self.tokens)  # tokens past these are matched only as they stand
        roles = {**default_roles, **roles}
        if added_tokens is None:
            named = sorted({self.ids[token] for token in roles.values() if token in self.ids})
            added_tokens = [AddedToken(id=index, content=self.tokens[index], special=True) for index in named]
        seen = set()
        for token in added_tokens:
            if not token.content or token.content in seen:
                raise ValueError(f'added token "{token.content}" (id {token.id}) is empty or occurs twice')
            seen.add(token.content)
            if token.content not in self.ids and token.id == len(self.tokens):
                self.tokens.append(token.content)
                self.ids[token.content] = token.id
            expected = self.ids.get(token.content, len(self.tokens))
            if token.id != expected:
                raise ValueError(f'added token "{token.content}": expected id {expected}, got {token.id}')
        self.added_tokens = tuple(added_tokens)
        self.roles = {role: token for role, token in roles.items() if token in self.ids}

    def id_of_role(self, role: str) -> int | None:
        """The id of the token that plays a role, or None."""
        return self.ids[self.roles[role]] if role in self.roles else None
