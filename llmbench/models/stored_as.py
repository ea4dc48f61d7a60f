"""How a GGUF file stores its weights, in the words of records: the same from every engine."""

from collections import Counter

from llmbench.models.header import Header

PLAIN = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # as torch and numpy call them
TEXT = """
F32 F16 Q4_0 Q4_1 - - - Q8_0 Q5_0 Q5_1 Q2_K Q3_K_S Q3_K_M Q3_K_L Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K
IQ2_XXS IQ2_XS Q2_K_S IQ3_XS IQ3_XXS IQ1_S IQ4_NL IQ3_S IQ3_M IQ2_S IQ2_M IQ4_XS IQ1_M BF16
"""  # in the order of their numbers. Source: llama.h, enum llama_ftype
FILE_TYPES = {number: name for number, name in enumerate(TEXT.split()) if name != "-"}


def stored_as(header: Header) -> str:
    """`float32`, `float16`, `bfloat16`, or ggml's name of a mixture, as Q8_0 or Q4_K_M.

    It is what the file calls itself, and where it does not, the type that most bytes are stored in.
    """
    told = FILE_TYPES.get(header.metadata.get("general.file_type")) or _mostly(header)
    return PLAIN.get(told, told)


def _mostly(header: Header) -> str:
    held: Counter[str] = Counter()
    for info in header.tensors:
        held[info.kind] += info.nbytes
    return held.most_common(1)[0][0] if held else "unknown"
