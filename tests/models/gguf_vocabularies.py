"""A tokenizer.json → the keys under which a GGUF file carries it."""

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


def byte_level(told, pre):
    """A byte-level BPE tokenizer; special tokens are control tokens."""
    tokens = listed(told)
    added = {token["id"]: token for token in told["added_tokens"]}
    kinds = [(CONTROL if added[i]["special"] else USER_DEFINED) if i in added else NORMAL
             for i in range(len(tokens))]  # fmt: skip
    merges = [merge if isinstance(merge, str) else " ".join(merge)
              for merge in told["model"]["merges"]]  # fmt: skip
    return keys(model="gpt2", pre=pre, tokens=tuple(tokens), token_type=tuple(kinds),
                merges=tuple(merges))  # fmt: skip


def listed(told):
    """Texts in the order of their ids."""
    ids = told["model"]["vocab"] | {t["content"]: t["id"] for t in told["added_tokens"]}
    return sorted(ids, key=ids.get)


def keys(**values):
    return {f"tokenizer.ggml.{name}": value for name, value in values.items()}


def sentencepiece(tokens, scores, own=()):
    """A SentencePiece BPE model whose first three tokens are unknown, begin and end."""
    kinds = [UNKNOWN, CONTROL, CONTROL, *(
        BYTE if token.startswith("<0x") else USER_DEFINED if token in own else NORMAL
        for token in tokens[3:])]  # fmt: skip
    return keys(model="llama", pre="default", tokens=tuple(tokens), token_type=tuple(kinds),
                scores=tuple(scores))  # fmt: skip
