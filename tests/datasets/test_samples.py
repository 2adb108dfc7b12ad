import pickle

import numpy as np
import pytest
import torch

from pctransformer.datasets import CloudDataset, FileFormatError, Sample, collate, joined
from pctransformer.datasets.samples import LazySamples, generator_for, stratified_split
from pctransformer.datasets.transforms import Jitter, RandomSubset


def dataset(sizes=(5, 3, 8, 4), transform=None, seed=0) -> CloudDataset:
    samples = [Sample(torch.full((n, 3), float(i)), label=i % 2, name=f"cloud {i}") for i, n in enumerate(sizes)]
    return CloudDataset(samples, [s.label for s in samples], ["even", "odd"], transform=transform, seed=seed)


def test_collate_packs_what_models_eat():
    ones = torch.ones(2, 3)
    samples = [
        Sample(ones, normals=2 * ones, features=3 * torch.ones(2, 1), label=1),
        Sample(ones[:1], ones[:1], torch.ones(1, 1)),
    ]
    points, labels = collate(samples)
    assert points.offsets.tolist() == [0, 2, 3]
    assert points.features[0].tolist() == [2, 2, 2, 3]
    assert labels.tolist() == [1, -1]


def test_printed_samples_are_a_line():
    ones = torch.ones(2, 3)
    assert repr(Sample(ones, normals=ones, label=1, name="a")) == "Sample('a', 2 points, normals, label 1)"
    assert repr(dataset()) == "CloudDataset(4 clouds, 2 classes: even, odd)"
    many = CloudDataset([], [], [str(i) for i in range(9)])
    assert repr(many) == "CloudDataset(0 clouds, 9 classes: 0, 1, 2, 3, 4, ...)"


def test_randomness_depends_on_seed_epoch_and_index_only():
    data = dataset(transform=Jitter())
    first = [data[i].xyz for i in range(4)]
    assert all(torch.equal(a, data[i].xyz) for i, a in reversed(list(enumerate(first))))  # whatever the order
    assert not torch.equal(first[0][0] - 0, first[1][0] - 1)
    data.set_epoch(1)
    second = [data[i].xyz for i in range(4)]
    assert not any(torch.equal(a, b) for a, b in zip(first, second))
    data.set_epoch(0)
    assert torch.equal(data[2].xyz, first[2])
    assert not torch.equal(dataset(transform=Jitter(), seed=1)[0].xyz, first[0])
    assert generator_for(0, 1).initial_seed() != generator_for(1, 0).initial_seed()


def test_a_worker_gives_the_same_and_sees_the_epoch():
    data = dataset(transform=Jitter())
    loader = torch.utils.data.DataLoader(
        data, 2, collate_fn=collate, num_workers=1, persistent_workers=True, multiprocessing_context="fork"
    )
    for epoch in (0, 1):
        data.set_epoch(epoch)
        batches = [points.xyz for points, _ in loader]
        alone = [collate([data[0], data[1]])[0].xyz, collate([data[2], data[3]])[0].xyz]
        assert all(torch.equal(a, b) for a, b in zip(batches, alone))


def test_joined_sets_share_classes_of_the_same_name():
    one = [Sample(torch.zeros(2, 3), label=i, name=name, point_labels=torch.zeros(2)) for i, name in enumerate("ab")]
    other = [Sample(torch.ones(3, 3), label=0, name="c"), Sample(torch.ones(3, 3), label=1, name="d")]
    changed = CloudDataset(one, [0, 1], ["cup", "axe"], transform=Jitter())
    both = joined([changed, CloudDataset(other, [0, 1], ["axe", "bed"])])
    assert both.class_names == ("cup", "axe", "bed")
    assert both.labels.tolist() == [0, 1, 1, 2]
    samples = pickle.loads(pickle.dumps(both))
    assert [(s.name, s.label, len(s), s.point_labels) for s in samples] == [
        *(("a", 0, 2, None), ("b", 1, 2, None)),
        *(("c", 1, 3, None), ("d", 2, 3, None)),
    ]
    assert both.transform is None
    assert one[0].point_labels is not None  # nothing writes into what was given


def test_indices_subsets_and_iteration():
    data = dataset()
    assert data[-1].name == "cloud 3"
    assert [s.name for s in data] == [f"cloud {i}" for i in range(4)]  # iteration ends with IndexError
    for outside in (4, -5):
        with pytest.raises(IndexError, match="4 samples"):
            data[outside]
    some = data.subset([2, 0])
    assert [some[i].name for i in range(len(some))] == ["cloud 2", "cloud 0"]
    assert some.labels.tolist() == [0, 0]


def test_in_memory_reads_once():
    reads = []
    lazy = LazySamples(2, lambda i: reads.append(i) or Sample(torch.zeros(1, 3), label=0))
    data = CloudDataset(lazy, [0, 0], ["a"]).in_memory()
    for _ in range(3):
        assert [len(s) for s in data] == [1, 1]
    assert reads == [0, 1]


def test_hold_out_takes_the_same_share_of_every_class():
    labels = np.repeat([0, 1, 2], [50, 10, 1])
    held = stratified_split(labels, 0.2, seed=0)
    assert [held[labels == c].sum() for c in range(3)] == [10, 2, 0]
    assert (held == stratified_split(labels, 0.2, seed=0)).all()
    assert (held != stratified_split(labels, 0.2, seed=1)).any()
    assert stratified_split(np.zeros(2, int), 0.01, 0).sum() == 1  # either side keeps one
    assert stratified_split(np.zeros(2, int), 0.99, 0).sum() == 1
    assert not stratified_split(labels, 0, 0).any()
    with pytest.raises(ValueError, match="fraction"):
        stratified_split(labels, 1.0, 0)
    data = dataset(sizes=(5,) * 10)
    train, validation = data.hold_out(0.4)
    names = [s.name for s in train] + [s.name for s in validation]
    assert sorted(names) == sorted(s.name for s in data)
    assert sorted(validation.labels.tolist()) == [0, 0, 1, 1]


def test_bad_input_is_explained():
    with pytest.raises(ValueError, match="as many labels"):
        CloudDataset([], [1], ["a"])
    with pytest.raises(ValueError, match="sample 1 has label 7"):
        CloudDataset([Sample(torch.zeros(1, 3))] * 2, [0, 7], ["a"])
    with pytest.raises(ValueError, match=r"must be \(n, 3\)"):
        Sample(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="'thing' has 3 points, but 2 normals"):
        Sample(torch.zeros(3, 3), normals=torch.zeros(2, 3), name="thing")


def test_a_file_error_survives_the_way_out_of_a_worker():
    error = pickle.loads(pickle.dumps(FileFormatError("a.ply", "it is broken")))
    assert str(error) == "a.ply: it is broken"


def test_ragged_batches_of_one_size():
    points, _ = collate([dataset(transform=RandomSubset(6))[i] for i in range(4)])
    assert points.is_dense
