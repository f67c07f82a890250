"""Two processes on half a batch each have the gradients of one on the whole: data parallel, and with sharded parameters."""

import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

import pgconv

SAMPLES_SEED = 7
pytestmark = pytest.mark.skipif(not dist.is_available() or os.name == "nt", reason="needs gloo")


def network():
    torch.manual_seed(0)
    # Statistics of a batch would differ between halves.
    return pgconv.models.CKResNet(1, 3, num_samples=4, width=4, kernel_size=3, partial=True, norm="layer").double()


def batch():
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 1, 12, 12, generator=generator, dtype=torch.float64)
    return images, torch.tensor([0, 1, 2, 0])


def gradients(model, images, labels, seed):
    """Mean loss and its gradients, whole."""
    torch.manual_seed(seed)
    loss = nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    found = {}
    for name, p in model.named_parameters():
        grad = p.grad
        if grad is not None:
            found[name.removeprefix("module.")] = grad.full_tensor() if hasattr(grad, "full_tensor") else grad
    return loss.item(), found


def shard(model):
    from torch.distributed.fsdp import fully_shard

    mesh = dist.init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in model.modules():
        if isinstance(layer, (pgconv.nn.GroupConv2d, pgconv.nn.LiftingConv2d)):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


WAYS = {"ddp": nn.parallel.DistributedDataParallel, "fsdp": shard}


def work(rank, way, seeds, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.set_num_threads(1)
    try:
        images, labels = batch()
        model = WAYS[way](network())
        loss, grads = gradients(model, images[rank::2], labels[rank::2], seeds[rank])
        torch.save((loss, {name: g.clone() for name, g in grads.items()}), f"{folder}/{rank}.pt")
        dist.barrier()  # or one leaves while the other still sends
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    "seeds", [(SAMPLES_SEED, SAMPLES_SEED), (SAMPLES_SEED, 8)], ids=["shared-samples", "own-samples"]
)
@pytest.mark.parametrize("way", WAYS)
def test_two_processes_have_the_gradients_of_one(way, seeds, tmp_path):
    mp.spawn(work, (way, seeds, str(tmp_path)), nprocs=2)
    images, labels = batch()
    halves = []
    for rank, seed in enumerate(seeds):
        halves.append(gradients(network(), images[rank::2], labels[rank::2], seed))
    want = {name: (halves[0][1][name] + halves[1][1][name]) / 2 for name in halves[0][1]}
    if seeds[0] == seeds[1]:
        whole = gradients(network(), images, labels, seeds[0])[1]
        for name, grad in whole.items():
            torch.testing.assert_close(grad, want[name], rtol=1e-8, atol=1e-10)
    else:
        first = gradients(network(), images, labels, seeds[0])[1]
        assert any((first[name] - want[name]).abs().max() > 1e-6 for name in want)
    for rank in range(2):
        loss, grads = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert loss == pytest.approx(halves[rank][0], rel=1e-9)
        assert grads.keys() == want.keys()
        for name, grad in grads.items():
            torch.testing.assert_close(grad, want[name], rtol=1e-8, atol=1e-10, msg=name)
