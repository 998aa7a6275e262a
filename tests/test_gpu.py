"""CUDA is a first-class device: the same numbers as the CPU, and no waiting inside the inner loop."""

import pytest
import torch

from tests.benchmarks import gpu_check

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


def test_encode_and_render_agree_with_the_cpu_to_1e3() -> None:
    assert max(gpu_check.check_agreement().values()) < gpu_check.TOLERANCE


def test_the_inner_loop_never_synchronises() -> None:
    gpu_check.check_no_synchronisation()


def test_a_base_learned_on_the_gpu_is_as_good() -> None:
    learned = gpu_check.learned_alike()
    assert learned["psnr_cuda"] == pytest.approx(learned["psnr_cpu"], abs=0.5)
