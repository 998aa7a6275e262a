"""CUDA is a first-class device: the same numbers as the CPU, and no waiting inside the inner loop.

Without one, `test_pretended_gpu.py` has what can be seen of it, and the check itself runs on the CPU.
"""

import pytest
import torch

from tests.benchmarks import gpu_check


@pytest.fixture
def check() -> gpu_check.Check:
    return gpu_check.Check(torch.device("cuda"))


@pytest.mark.gpu
def test_encode_and_render_agree_with_the_cpu_to_1e3(check: gpu_check.Check) -> None:
    assert max(gpu_check.check_agreement(check).values()) < gpu_check.TOLERANCE


@pytest.mark.gpu
def test_the_inner_loop_never_synchronises_and_an_update_does_once(check: gpu_check.Check) -> None:
    assert set(gpu_check.check_no_synchronisation(check).values()) == {1}


@pytest.mark.gpu
def test_encoding_again_gives_the_same_bytes(check: gpu_check.Check) -> None:
    assert all(gpu_check.check_repeats(check).values())


@pytest.mark.gpu
def test_a_base_learned_on_the_gpu_is_as_good(check: gpu_check.Check) -> None:
    learned = gpu_check.learned_alike(check)
    assert learned["psnr_device"] == pytest.approx(learned["psnr_cpu"], abs=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("section", gpu_check.SECTIONS)
def test_the_check_itself_runs_without_a_gpu(section: str) -> None:
    assert gpu_check.SECTIONS[section](gpu_check.Check(torch.device("cpu"), small=True))
