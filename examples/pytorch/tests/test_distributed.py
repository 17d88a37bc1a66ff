# SPDX-License-Identifier: Apache-2.0
"""gru_torch.GRU in DistributedDataParallel: two processes, on two GPUs where there are two."""

import pytest
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

import gru_torch

RANKS = 2


def make_layer_and_inputs(device):
    """The same ones in every process: masks are drawn for each row by itself, and so left out."""
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(1)
    layer = gru_torch.GRU(4, 5, 2, bidirectional=True, dtype=torch.float64)
    x = torch.randn(7, 2 * RANKS, 4, dtype=torch.float64, generator=generator)
    starts = torch.rand(7, 2 * RANKS, generator=generator) < 0.2
    return layer.to(device), x.to(device), starts.to(device)


def gradients_of_mean(model, x, starts):
    model(x, episode_starts=starts)[0].square().mean().backward()
    return [parameter.grad.cpu() for parameter in model.parameters()]


def run_rank(rank, kind, folder):
    device = torch.device(kind, rank) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group(
        "nccl" if kind == "cuda" else "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=RANKS,
    )
    layer, x, starts = make_layer_and_inputs(device)
    part = slice(rank * 2, rank * 2 + 2)
    gradients = gradients_of_mean(DistributedDataParallel(layer), x[:, part], starts[:, part])
    torch.save(gradients, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_gradients_are_those_of_the_whole_batch_in_one_process(device, tmp_path):
    if device.type == "cuda" and torch.cuda.device_count() < RANKS:
        pytest.skip("needs two GPUs")
    torch.multiprocessing.spawn(run_rank, (device.type, tmp_path), nprocs=RANKS)
    with torch.device("cpu"):
        expected = gradients_of_mean(*make_layer_and_inputs(device))
    for rank in range(RANKS):
        actual = torch.load(tmp_path / f"{rank}.pt", map_location="cpu")
        torch.testing.assert_close(actual, expected)
