"""Which builds of llama.cpp are let near a model file. The module here is a stand-in."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from unittest.mock import Mock

import pytest

from llmbench.engines.llamacpp import LlamaCppEngine
from llmbench.errors import Unsupported
from llmbench.models import llamacpp_library
from llmbench.models.source import find_model


@pytest.fixture(params=["0.3.16", "0.2.90", "unknown"])
def old(request, monkeypatch):
    module = ModuleType("llama_cpp")
    module.__spec__, module.__version__ = ModuleSpec("llama_cpp", None), request.param
    module.llama_log_callback = module.llama_log_set = module.llama_backend_init = Mock()
    module.llama_supports_gpu_offload = Mock(return_value=False)
    monkeypatch.setitem(sys.modules, "llama_cpp", module)
    monkeypatch.setattr(llamacpp_library, "_kept", [])
    return module


def test_a_build_with_a_known_hole_is_refused_before_it_sees_a_file(old):
    with pytest.raises(Unsupported, match=r"before 0\.3\.17") as told:
        LlamaCppEngine().load(find_model("builtin:tiny"), {})
    assert old.__version__ in told.value.what
    assert "allow_old: true" in told.value.how
    assert not old.llama_backend_init.called


def test_it_is_used_when_that_is_allowed(old):
    """Then the refusal is another one: of a GPU that this build does not know."""
    with pytest.raises(Unsupported, match="knows no GPU"):
        LlamaCppEngine().load(find_model("builtin:tiny"), {"allow_old": True, "device": "cuda"})
    assert old.llama_backend_init.called


@pytest.mark.parametrize("version", ["0.3.17", "0.3.36", "0.4", "1.0.0rc1"])
def test_newer_builds_are_not_old(version):
    assert not llamacpp_library.is_old(version)
