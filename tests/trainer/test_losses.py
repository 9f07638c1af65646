import contextlib
import math
from itertools import accumulate

import pytest
import torch
from torch import nn

from transformers_fsdfm import Schedule
from transformers_fsdfm.trainer import losses
from transformers_fsdfm.trainer.losses import (
    chunked_loss,
    cross_entropy_loss,
    cross_entropy_part,
    distillation_loss,
    distillation_part,
    equal_chunks,
    evaluation_mode,
    path_loss,
    path_part,
    path_weight,
    positions_per_chunk,
)

from ..conftest import generator


LINEAR = Schedule()
ROWS, LENGTH, HIDDEN, VOCAB = 4, 5, 6, 7


class RecordingHead(nn.Linear):
    """A head that notes how many positions it is asked for at a time."""

    def __init__(self, *args):
        super().__init__(*args)
        self.sizes = []

    def forward(self, hidden_states):
        self.sizes.append(len(hidden_states))
        return super().forward(hidden_states)


def random_batch(seed=0, vocab_size=VOCAB, rows=ROWS, length=LENGTH):
    """Hidden states, labels (some -100, one row with nothing else), noisy ids (some masked) and weights."""
    dice = generator(seed)
    hidden_states = torch.randn(rows, length, HIDDEN, generator=dice).requires_grad_()
    labels = torch.randint(vocab_size, (rows, length), generator=dice)
    noisy_ids = torch.where(torch.rand(rows, length, generator=dice) < 0.4, labels, (labels + 1) % (vocab_size + 1))
    labels[0, :2] = -100
    labels[-1] = -100
    return hidden_states, labels, noisy_ids, 1 + torch.rand(rows, generator=dice)


def random_head(seed=1, kind=nn.Linear, vocab_size=VOCAB):
    torch.manual_seed(seed)
    return kind(HIDDEN, vocab_size)


def mean_over_rows(position_loss, labels):
    """The reduction, plainly: for each row the mean over its labels, then the mean over rows."""
    rows = [loss[label != -100] for loss, label in zip(position_loss, labels, strict=True)]
    rows = torch.stack([row.mean() if len(row) else row.sum() for row in rows])
    return rows.mean(), rows


def gradients(loss, hidden_states, head):
    return torch.autograd.grad(loss, [hidden_states, *head.parameters()])


def peak_of_allocated_bytes(function):
    """The most memory that tensors made by `function()` have at a time."""
    with torch.profiler.profile(profile_memory=True) as profile:
        function()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


# ---- The formulas ----


def test_path_loss_equals_the_formula_written_out_element_by_element():
    logits = torch.randn(60, 3, generator=generator(0), dtype=torch.float64)
    clean = torch.arange(60) % 3
    noisy = torch.arange(60) // 3 % 4  # 3 is the mask token
    weight = torch.rand(60, generator=generator(1), dtype=torch.float64)
    for index, loss in enumerate(path_loss(logits, clean, noisy, weight).tolist()):
        exponentials = [math.exp(value) for value in logits[index].tolist()]
        probs = [*(value / sum(exponentials) for value in exponentials), 0.0]
        x_1, x_t = int(clean[index]), int(noisy[index])
        same = float(x_1 == x_t)
        expected = -float(weight[index]) * (probs[x_t] - same + (1 - same) * math.log(probs[x_1]))
        assert loss == pytest.approx(expected, abs=1e-12)


def posterior_of_chain(noisy_ids, data_law, time):
    """p(x_1 | x_t) of one position, uniform source, by Bayes: likelihood kappa [x_1 = x_t] + (1 - kappa) / 3."""
    joint = data_law * (1 - time) / 3
    joint = joint.expand(*noisy_ids.shape, 3).clone()
    joint.scatter_add_(-1, noisy_ids[..., None], data_law[noisy_ids][..., None] * time)
    return joint / joint.sum(-1, keepdim=True), joint.sum(-1)


def test_expected_path_loss_has_no_gradient_at_the_true_posterior_and_is_least_there():
    data_law = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    noisy = torch.arange(3).repeat_interleave(3)
    clean = torch.arange(3).repeat(3)
    posterior, _ = posterior_of_chain(noisy, data_law, time=0.4)

    def expected_loss(logits):
        return (posterior.gather(-1, clean[:, None])[:, 0] * path_loss(logits, clean, noisy, torch.ones(9))).sum()

    logits = posterior.log().requires_grad_()
    (gradient,) = torch.autograd.grad(expected_loss(logits), logits)
    # The three entries of one x_t share their logits: their gradients cancel.
    assert gradient.view(3, 3, 3).sum(1).abs().max() < 1e-12
    for seed in range(5):
        elsewhere = logits.detach().view(3, 3, 3)[:, :1] + 0.3 * torch.randn(3, 1, 3, generator=generator(seed))
        assert expected_loss(elsewhere.expand(3, 3, 3).reshape(9, 3)) > expected_loss(logits.detach())


def integrate(integrand):
    times = ((torch.arange(400, dtype=torch.float64) + 0.5) / 400).tolist()
    return sum(integrand(torch.tensor([time], dtype=torch.float64)) for time in times) / len(times)


@pytest.mark.parametrize("schedule", [LINEAR, Schedule("polynomial", 2.0), Schedule("cosine")])
def test_path_loss_of_the_true_posterior_integrates_to_the_joint_entropy_with_a_mask_source(schedule):
    """Two positions, correlated: a masked one is predicted from the other, or from nothing."""
    law = torch.tensor([[0.3, 0.1, 0.0], [0.05, 0.2, 0.05], [0.1, 0.0, 0.2]], dtype=torch.float64)
    first, second = law.nonzero().unbind(-1)
    conditional, marginal = (law / law.sum(0)).T[second], law.sum(1).expand(len(first), 3)
    masked = torch.full_like(first, 3)

    def integrand(time):
        kappa, weight = schedule.kappa(time), path_weight(schedule, time).expand(len(first))
        value = 0.0
        for clean, given_other, alone in [
            (first, conditional, marginal),
            (second, (law.T / law.sum(1)).T[first], law.sum(0).expand(len(first), 3)),
        ]:
            loss_given_other = path_loss(given_other.log(), clean, masked, weight)
            loss_alone = path_loss(alone.log(), clean, masked, weight)
            value += (1 - kappa) * (law[first, second] * (kappa * loss_given_other + (1 - kappa) * loss_alone)).sum()
        return float(value)

    entropy = -float((law[law > 0] * law[law > 0].log()).sum())
    assert integrate(integrand) == pytest.approx(entropy, rel=1e-5)


def test_with_a_uniform_source_the_bound_stays_above_the_entropy_even_at_the_true_posterior():
    """The chain forgets which tokens it has already drawn from data, and pays for it."""
    law = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    clean, noisy = torch.arange(3).repeat_interleave(3), torch.arange(3).repeat(3)

    def integrand(time):
        joint = law[clean] * ((1 - time) / 3 + time * (clean == noisy))
        posterior, _ = posterior_of_chain(noisy, law, time)
        return float((joint * path_loss(posterior.log(), clean, noisy, path_weight(LINEAR, time).expand(9))).sum())

    entropy = -float((law * law.log()).sum())
    assert 1.2 * entropy < integrate(integrand) < 1.4 * entropy


def test_path_weight_is_plain_or_step_aware():
    time, step_size = torch.tensor([0.0, 0.5, 0.75]), torch.tensor([0.5, 0.25, 0.125])
    assert torch.allclose(path_weight(LINEAR, time), torch.tensor([1.0, 2.0, 4.0]))
    expected = [math.log((1 - t) / (1 - t - h)) / h for t, h in zip(time.tolist(), step_size.tolist(), strict=True)]
    assert torch.allclose(path_weight(LINEAR, time, step_size), torch.tensor(expected))
    small = torch.full((3,), 2.0**-10)
    assert torch.allclose(path_weight(LINEAR, time, small), path_weight(LINEAR, time), rtol=5e-3)


def test_path_weight_refuses_the_singular_end():
    with pytest.raises(ValueError, match="`time` must stay below 1"):
        path_weight(LINEAR, torch.ones(1))
    with pytest.raises(ValueError, match=r"`time` \+ `step_size`"):
        path_weight(LINEAR, torch.tensor([0.5]), torch.tensor([0.5]))


def test_cross_entropy_is_the_negative_log_probability():
    logits = torch.randn(4, 3, generator=generator(0))
    clean = torch.tensor([0, 1, 2, 1])
    expected = -logits.softmax(-1)[torch.arange(4), clean].log()
    assert torch.allclose(cross_entropy_loss(logits, clean), expected)


def kl_by_hand(student, teacher, columns, temperature=1.0):
    """KL(teacher || student) of one position on the given columns, in plain Python, and the teacher's entropy there."""

    def normalised(logits):
        weights = [math.exp(logits[column] / temperature) for column in columns]
        return [weight / sum(weights) for weight in weights]

    p, q = normalised(teacher.tolist()), normalised(student.tolist())
    divergence = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return temperature**2 * divergence, -sum(a * math.log(a) for a in p)


def test_distillation_loss_equals_the_formula_written_out():
    student, teacher = 2 * torch.randn(2, 20, VOCAB, generator=generator(0), dtype=torch.float64)
    for temperature in (1.0, 2.5):
        loss = distillation_loss(student, teacher, temperature)
        expected = [kl_by_hand(*pair, range(VOCAB), temperature)[0] for pair in zip(student, teacher, strict=True)]
        assert loss.tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 2.5}, {"top_k": 3}, {"top_p": 0.7}, {"confidence_weighting": True}]
)
def test_distillation_gradient_is_that_of_the_loss(options):
    student, teacher = 2 * torch.randn(2, 6, VOCAB, generator=generator(0), dtype=torch.float64)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda logits: distillation_loss(logits, teacher, **options), student)


@pytest.mark.parametrize("option", [{"top_k": 3}, {"top_p": 0.7}])
def test_restricted_distillation_compares_renormalised_distributions_on_the_teachers_support(option):
    student, teacher = 2 * torch.randn(2, 20, VOCAB, generator=generator(0), dtype=torch.float64)
    loss = distillation_loss(student, teacher, **option)
    full = distillation_loss(student, teacher)
    for index in range(20):
        order = sorted(range(VOCAB), key=lambda column: -float(teacher[index, column]))
        if "top_k" in option:
            columns = order[:3]
        else:
            probs = teacher[index].softmax(-1).tolist()
            columns, total = [], 0.0
            for column in order:
                if total >= 0.7:
                    break
                columns.append(column)
                total += probs[column]
        assert loss[index].item() == pytest.approx(kl_by_hand(student[index], teacher[index], columns)[0], abs=1e-10)
    assert not torch.allclose(loss, full)


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 2.5}, {"top_k": 3}, {"top_p": 0.7}, {"confidence_weighting": True}]
)
def test_distillation_of_low_precision_logits_is_computed_in_float32(options):
    student, teacher = torch.randn(2, 20, VOCAB, generator=generator(0)).bfloat16()
    rounded, in_float32 = student.clone().requires_grad_(), student.float().requires_grad_()
    loss = distillation_loss(rounded, teacher, **options)
    expected = distillation_loss(in_float32, teacher.float(), **options)
    assert torch.equal(loss, expected)
    (gradient,) = torch.autograd.grad(loss.sum(), rounded)
    (exact,) = torch.autograd.grad(expected.sum(), in_float32)
    assert gradient.dtype == torch.bfloat16
    assert torch.allclose(gradient.float(), exact, rtol=0.02, atol=1e-6)


def test_distillation_needs_three_float32_tensors_of_the_size_of_the_logits():
    student, teacher = torch.randn(2, 64, 1000, generator=generator(0)).bfloat16()
    student.requires_grad_()
    peak = peak_of_allocated_bytes(lambda: distillation_loss(student, teacher).sum().backward())
    assert 1 < peak / (4 * student.numel()) < 3.5


def test_restriction_reaches_the_gradient_only_inside_the_support():
    student = torch.randn(4, VOCAB, generator=generator(0)).requires_grad_()
    teacher = torch.randn(4, VOCAB, generator=generator(1))
    outside = torch.ones(4, VOCAB, dtype=torch.bool).scatter(-1, teacher.topk(2).indices, False)
    (gradient,) = torch.autograd.grad(distillation_loss(student, teacher, top_k=2).sum(), student)
    assert (gradient[outside] == 0).all()
    assert (gradient[~outside] != 0).all()


def test_the_whole_vocabulary_as_support_changes_nothing():
    student, teacher = torch.randn(2, 8, VOCAB, generator=generator(0))
    plain = distillation_loss(student, teacher)
    assert torch.allclose(distillation_loss(student, teacher, top_k=VOCAB), plain, atol=1e-6)
    assert torch.allclose(distillation_loss(student, teacher, top_p=1.0), plain)


def test_confidence_weight_is_one_minus_the_relative_entropy_of_the_teacher():
    student, teacher = torch.randn(2, 8, VOCAB, generator=generator(0), dtype=torch.float64)
    for columns, option in [(range(VOCAB), {}), (None, {"top_k": 3})]:
        loss = distillation_loss(student, teacher, confidence_weighting=True, **option)
        for index in range(8):
            support = columns or teacher[index].topk(3).indices.tolist()
            divergence, entropy = kl_by_hand(student[index], teacher[index], support)
            expected = divergence * (1 - entropy / math.log(len(support)))
            assert loss[index].item() == pytest.approx(expected, abs=1e-12)


def test_confidence_weight_is_0_for_a_uniform_and_1_for_a_certain_teacher():
    student = torch.tensor([[1.0, 2.0, 0.5]]).repeat(2, 1)
    teacher = torch.tensor([[0.0, 0.0, 0.0], [200.0, 0.0, 0.0]])
    weighted = distillation_loss(student, teacher, confidence_weighting=True)
    plain = distillation_loss(student, teacher)
    assert weighted[0].item() == pytest.approx(0, abs=1e-6)
    assert plain[0] > 0.1
    assert weighted[1] == plain[1]


def test_a_student_that_equals_its_teacher_has_zero_distillation_loss_and_gradient():
    teacher = torch.randn(8, VOCAB, generator=generator(0))
    student = teacher.clone().requires_grad_()
    for option in ({}, {"temperature": 3.0}, {"top_k": 2}, {"top_p": 0.5}, {"confidence_weighting": True}):
        loss = distillation_loss(student, teacher, **option)
        assert (loss == 0).all()
        assert torch.autograd.grad(loss.sum(), student)[0].abs().max() < 1e-6


@pytest.mark.parametrize("option", [{}, {"top_k": 1}, {"top_k": 4}, {"top_p": 1e-6}, {"top_p": 0.9}])
@pytest.mark.parametrize("confidence_weighting", [False, True])
def test_distillation_is_never_nan_with_banned_or_certain_tokens(option, confidence_weighting):
    inf = math.inf
    teacher = torch.tensor([[-inf, 1.0, 2.0, -inf], [500.0, -500.0, 0.0, 0.0], [-inf, -inf, 3.0, -inf]])
    student = torch.tensor([[-inf, 1.0, 0.0, 3.0], [-500.0, 500.0, 0.0, 0.0], [-inf, 0.0, 1.0, 2.0]])
    student.requires_grad_()
    loss = distillation_loss(student, teacher, confidence_weighting=confidence_weighting, **option)
    assert torch.isfinite(loss).all()
    assert torch.isfinite(torch.autograd.grad(loss.sum(), student)[0]).all()


def test_no_gradient_flows_into_the_teacher():
    student, teacher = (torch.randn(4, VOCAB, generator=generator(seed)).requires_grad_() for seed in (0, 1))
    distillation_loss(student, teacher).sum().backward()
    assert teacher.grad is None


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_k": VOCAB + 1}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": 2, "top_p": 0.5}, "top_k"),
    ],
)
def test_bad_distillation_options_are_named(options, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        distillation_loss(torch.zeros(1, VOCAB), torch.zeros(1, VOCAB), **options)


# ---- In chunks ----


def chunked_and_plain(kind, head, teacher_head, chunk_size):
    """The same loss twice: in chunks, and from the logits of all positions."""
    hidden_states, labels, noisy_ids, weight = random_batch()
    logits = head(hidden_states).flatten(0, 1)
    clean_ids = labels.clamp_min(0).flatten()
    if kind == "path":
        part = path_part(labels, noisy_ids, weight)
        plain = path_loss(logits, clean_ids, noisy_ids.flatten(), weight.repeat_interleave(LENGTH))
    elif kind == "cross_entropy":
        part = cross_entropy_part(labels)
        plain = cross_entropy_loss(logits, clean_ids)
    else:
        options = {"temperature": 2.0, "top_k": 4, "confidence_weighting": True} if kind == "top_k" else {}
        teacher_hidden = torch.randn(hidden_states.shape, generator=generator(5))
        part = distillation_part(labels, teacher_head, teacher_hidden, **options)
        plain = distillation_loss(logits, teacher_head(teacher_hidden).flatten(0, 1), **options)
    chunked = chunked_loss(head, hidden_states, part, chunk_size=chunk_size)
    return hidden_states, chunked, *mean_over_rows(plain.view(ROWS, LENGTH), labels)


@pytest.mark.parametrize("kind", ["path", "cross_entropy", "distillation", "top_k"])
@pytest.mark.parametrize("chunk_size", [1, 4, 100, None])
def test_chunked_losses_equal_the_plain_ones_with_their_gradients(kind, chunk_size):
    head, teacher_head = random_head(1), random_head(2)
    hidden_states, chunked, plain_loss, plain_rows = chunked_and_plain(kind, head, teacher_head, chunk_size)
    assert torch.allclose(chunked.loss, plain_loss, atol=1e-6)
    assert torch.allclose(chunked.row_loss, plain_rows, atol=1e-6)
    assert chunked.row_loss[-1] == 0
    assert not chunked.row_loss.requires_grad
    expected = gradients(3 * plain_loss, hidden_states, head)
    for gradient, other in zip(gradients(3 * chunked.loss, hidden_states, head), expected, strict=True):
        assert torch.allclose(gradient, other, atol=1e-6)
    assert all(parameter.grad is None for parameter in teacher_head.parameters())


def test_the_head_never_sees_more_than_a_chunk_nor_positions_that_do_not_count():
    head, teacher_head = random_head(1, RecordingHead), random_head(2, RecordingHead)
    hidden_states, labels, *_ = random_batch()
    part = distillation_part(labels, teacher_head, hidden_states.detach())
    chunked_loss(head, hidden_states, part, chunk_size=4).loss.backward()
    assert max(head.sizes + teacher_head.sizes) == 4
    assert sum(head.sizes) == sum(teacher_head.sizes) == (labels != -100).sum()


def test_no_large_tensor_outlives_its_chunk():
    """Of 64 positions with 1,000 tokens, 2 in a chunk: neither forward nor backward makes a tensor for all of them."""
    head, vocab_size = nn.Linear(HIDDEN, 1000), 1000
    hidden_states, labels, noisy_ids, weight = random_batch(vocab_size=vocab_size, rows=8, length=8)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            for value in result if isinstance(result, (tuple, list)) else [result]:
                largest = max(largest, value.numel() if isinstance(value, torch.Tensor) else 0)
            return result

    with Watch():
        chunked_loss(head, hidden_states, path_part(labels, noisy_ids, weight), chunk_size=2).loss.backward()
    assert largest <= max(2 * vocab_size, head.weight.numel())


def test_of_the_heads_gradient_there_is_the_sum_and_that_of_one_chunk():
    head = nn.Linear(256, 1000)
    hidden_states = torch.randn(2, 8, 256, generator=generator(0))
    labels = torch.randint(1000, (2, 8), generator=generator(1))
    parts = cross_entropy_part(labels[:1]), distillation_part(labels[1:], nn.Linear(256, 1000), hidden_states[1:])

    def step():
        chunked_loss(head, hidden_states, *parts, chunk_size=2).loss.backward()

    assert 1 < peak_of_allocated_bytes(step) / head.weight.nbytes < 2.5


def test_chunks_fill_the_memory_set_aside_for_them(monkeypatch):
    monkeypatch.setitem(losses.LOGITS_CHUNK_BYTES, "cpu", 4 * VOCAB * 3)
    assert positions_per_chunk(VOCAB, torch.device("cpu")) == 3
    assert positions_per_chunk(10**9, torch.device("cpu")) == 1
    head = random_head(1, RecordingHead)
    hidden_states, labels, *_ = random_batch()
    chunked_loss(head, hidden_states, cross_entropy_part(labels))
    assert sorted(head.sizes) == [2, 2, 3, 3, 3]


@pytest.mark.parametrize(("length", "chunk_size"), [(0, 3), (1, 3), (9, 3), (13, 3), (2048, 333)])
def test_chunks_are_few_and_of_equal_length(length, chunk_size):
    values = torch.arange(length)
    chunks = equal_chunks(values, chunk_size)
    sizes = [len(chunk) for chunk in chunks]
    assert torch.equal(torch.cat(chunks), values)
    assert len(chunks) == max(1, math.ceil(length / chunk_size))
    assert max(sizes) <= chunk_size
    assert max(sizes) - min(sizes) <= 1


def test_without_gradient_nothing_is_differentiated():
    head = random_head()
    hidden_states, labels, *_ = random_batch()
    with torch.no_grad():
        loss = chunked_loss(head, hidden_states, cross_entropy_part(labels))
    assert not loss.loss.requires_grad
    assert torch.allclose(loss.loss, chunked_loss(head, hidden_states, cross_entropy_part(labels)).loss)


def test_frozen_heads_get_no_gradient_but_pass_it_on():
    head = random_head().requires_grad_(False)
    hidden_states, labels, *_ = random_batch()
    chunked_loss(head, hidden_states, cross_entropy_part(labels), chunk_size=3).loss.backward()
    assert head.weight.grad is None
    assert hidden_states.grad.abs().sum() > 0


def test_a_head_without_trained_backbone_gets_its_gradient():
    head = random_head()
    hidden_states, labels, *_ = random_batch()
    chunked_loss(head, hidden_states.detach(), cross_entropy_part(labels)).loss.backward()
    assert head.weight.grad.abs().sum() > 0


def test_nothing_to_count_gives_zero_and_no_nan():
    head = random_head()
    hidden_states, labels, noisy_ids, weight = random_batch()
    for rows in (slice(0, 0), slice(ROWS - 1, ROWS)):
        loss = chunked_loss(head, hidden_states[rows], path_part(labels[rows], noisy_ids[rows], weight[rows]))
        loss.loss.backward()
        assert loss.loss == 0
        assert (loss.row_loss == 0).all()
        assert (head.weight.grad == 0).all()
    assert (hidden_states.grad == 0).all()


def test_gradients_accumulate_over_micro_batches():
    hidden_states, labels, *_ = random_batch()
    head, accumulated = random_head(), random_head()
    whole = chunked_loss(head, hidden_states, cross_entropy_part(labels)).loss
    whole.backward()
    for rows in (slice(0, 2), slice(2, 4)):
        (chunked_loss(accumulated, hidden_states[rows], cross_entropy_part(labels[rows])).loss / 2).backward()
    assert torch.allclose(head.weight.grad, accumulated.weight.grad, atol=1e-6)


def two_parts(labels, noisy_ids, weight, teacher_head, teacher_hidden, num_data_rows):
    """The first rows against data, the others against a teacher."""
    data, taught = slice(num_data_rows), slice(num_data_rows, None)
    return (
        path_part(labels[data], noisy_ids[data], weight[data]),
        distillation_part(labels[taught], teacher_head, teacher_hidden[taught]),
    )


@pytest.mark.parametrize("num_data_rows", range(ROWS + 1))
def test_two_parts_are_averaged_over_all_their_rows(num_data_rows):
    head, teacher_head = random_head(1), random_head(2)
    hidden_states, labels, noisy_ids, weight = random_batch()
    teacher_hidden = torch.randn(hidden_states.shape, generator=generator(5))
    parts = two_parts(labels, noisy_ids, weight, teacher_head, teacher_hidden, num_data_rows)
    chunked = chunked_loss(head, hidden_states, *parts, chunk_size=3)
    logits, teacher_logits = head(hidden_states), teacher_head(teacher_hidden).detach()
    clean_ids, weight = labels.clamp_min(0), weight[:, None].expand(labels.shape)
    by_data = path_loss(logits, clean_ids, noisy_ids, weight)
    by_teacher = distillation_loss(logits.flatten(0, 1), teacher_logits.flatten(0, 1)).view(ROWS, LENGTH)
    is_data = torch.arange(ROWS)[:, None] < num_data_rows
    loss, row_loss = mean_over_rows(torch.where(is_data, by_data, by_teacher), labels)
    assert torch.allclose(chunked.loss, loss, atol=1e-6)
    assert torch.allclose(chunked.row_loss, row_loss, atol=1e-6)
    expected = gradients(loss, hidden_states, head)
    for gradient, other in zip(gradients(chunked.loss, hidden_states, head), expected, strict=True):
        assert torch.allclose(gradient, other, atol=1e-6)


@pytest.mark.parametrize("num_data_rows", [0, 1, ROWS])
def test_heads_are_gathered_and_get_a_gradient_whatever_part_has_no_rows(num_data_rows):
    """Other processes, which have other rows, wait for both."""
    head, teacher_head, calls = random_head(1, RecordingHead), random_head(2, RecordingHead), []
    for name, module in (("student", head), ("teacher", teacher_head)):
        module.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
    hidden_states, labels, noisy_ids, weight = random_batch()
    for kept in (labels, torch.full_like(labels, -100)):
        parts = two_parts(kept, noisy_ids, weight, teacher_head, hidden_states.detach(), num_data_rows)
        chunked_loss(head, hidden_states, *parts).loss.backward()
    assert calls == ["teacher", "student"] * 2
    assert 0 not in head.sizes + teacher_head.sizes
    assert len(head.sizes) == (num_data_rows > 0) + (num_data_rows < ROWS)
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_under_autocast_losses_are_float32_and_near_those_without():
    head, teacher_head = random_head(1), random_head(2)
    hidden_states, labels, noisy_ids, weight = random_batch()
    exact = chunked_loss(head, hidden_states, path_part(labels, noisy_ids, weight), chunk_size=3)
    seen = []

    def watched(logits, *inputs):
        loss = path_loss(logits, *inputs)
        seen.append((logits.dtype, loss.dtype))
        return loss

    with torch.autocast("cpu", torch.bfloat16):
        part = path_part(labels, noisy_ids, weight)._replace(position_loss=watched)
        rough = chunked_loss(head, hidden_states, part, chunk_size=3)
        distilled = chunked_loss(head, hidden_states, distillation_part(labels, teacher_head, hidden_states.detach()))
    assert set(seen) == {(torch.bfloat16, torch.float32)}
    assert rough.loss.dtype == distilled.loss.dtype == torch.float32
    assert torch.allclose(rough.loss, exact.loss, rtol=0.03)
    assert rough.loss != exact.loss
    for gradient, other in zip(
        gradients(rough.loss, hidden_states, head), gradients(exact.loss, hidden_states, head), strict=True
    ):
        assert gradient.dtype == torch.float32
        assert torch.allclose(gradient, other, atol=0.02)


def test_bfloat16_weights_add_up_their_gradients_in_float32():
    torch.manual_seed(0)
    head = nn.Linear(HIDDEN, VOCAB)
    hidden_states = torch.randn(1, 400, HIDDEN)
    labels = torch.randint(VOCAB, (1, 400))
    rounded, in_float32 = nn.Linear(HIDDEN, VOCAB).bfloat16(), head
    rounded.load_state_dict(head.state_dict())
    in_float32.load_state_dict(rounded.state_dict())
    chunked_loss(rounded, hidden_states.bfloat16(), cross_entropy_part(labels), chunk_size=1).loss.backward()
    chunked_loss(in_float32, hidden_states.bfloat16().float(), cross_entropy_part(labels), chunk_size=1).loss.backward()
    assert rounded.weight.grad.dtype == torch.bfloat16
    error = (rounded.weight.grad.float() - in_float32.weight.grad).norm() / in_float32.weight.grad.norm()
    assert error < 0.01


def test_heads_wrapped_by_lora_train_their_adapter_alone():
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(0)
    model = inject_adapter_in_model(LoraConfig(target_modules=["head"], r=2), nn.ModuleDict({"head": random_head()}))
    head = model["head"]
    nn.init.normal_(head.lora_B["default"].weight)
    hidden_states, labels, *_ = random_batch()
    chunked_loss(head, hidden_states, cross_entropy_part(labels), chunk_size=3).loss.backward()
    plain = cross_entropy_loss(head(hidden_states).flatten(0, 1), labels.clamp_min(0).flatten())
    (expected,) = torch.autograd.grad(
        mean_over_rows(plain.view(ROWS, LENGTH), labels)[0], head.lora_A["default"].weight
    )
    assert torch.allclose(head.lora_A["default"].weight.grad, expected, atol=1e-6)
    assert head.base_layer.weight.grad is None


def test_hooks_of_the_head_run_once_around_all_chunks():
    """Engines that shard weights gather them in these hooks."""
    head, calls = random_head(), []
    head.register_forward_pre_hook(lambda *_: calls.append("gather"))
    head.register_forward_hook(lambda *_: calls.append("release"))
    hidden_states, labels, *_ = random_batch()
    chunked_loss(head, hidden_states, cross_entropy_part(labels), chunk_size=2)
    assert calls == ["gather", "release"]
    assert "forward" not in vars(head)


def test_a_teachers_head_is_gathered_once_too_and_may_be_the_students():
    for teacher_head in (random_head(2), None):
        head, calls = random_head(1), []
        for module in {head, teacher_head or head}:
            module.register_forward_pre_hook(lambda *_, calls=calls: calls.append("gather"))
        hidden_states, labels, *_ = random_batch()
        part = distillation_part(labels, teacher_head or head, 1 - hidden_states.detach())
        loss = chunked_loss(head, hidden_states, part, chunk_size=2).loss
        assert calls == ["gather", "gather"]
        target = (teacher_head or head)(1 - hidden_states.detach()).detach()
        plain = distillation_loss(head(hidden_states).flatten(0, 1), target.flatten(0, 1)).view(ROWS, LENGTH)
        expected = gradients(mean_over_rows(plain, labels)[0], hidden_states, head)
        for gradient, other in zip(gradients(loss, hidden_states, head), expected, strict=True):
            assert torch.allclose(gradient, other, atol=1e-6)


def test_a_forward_that_another_library_put_on_the_head_is_used_and_kept():
    head = random_head()
    original = head.forward
    head.forward = replaced = lambda hidden_states: 2 * original(hidden_states)
    hidden_states, labels, *_ = random_batch()
    loss = chunked_loss(head, hidden_states, cross_entropy_part(labels)).loss
    assert head.forward is replaced
    del head.forward
    assert loss != chunked_loss(head, hidden_states, cross_entropy_part(labels)).loss


def test_the_head_of_averaged_hidden_states_is_the_average_of_the_logits():
    from peft import LoraConfig, inject_adapter_in_model

    lora = inject_adapter_in_model(
        LoraConfig(target_modules=["head"], r=2, lora_dropout=0.5), nn.ModuleDict({"head": random_head()})
    )["head"]
    nn.init.normal_(lora.lora_B["default"].weight)
    hidden = torch.randn(4, 10, HIDDEN, generator=generator(0))
    weights = torch.tensor([1.0, 2.0, 2.0, 1.0])[:, None, None] / 6
    for head in (random_head(), lora.eval()):
        assert torch.allclose(head((weights * hidden).sum(0)), (weights * head(hidden)).sum(0), atol=1e-6)


def test_the_teachers_head_runs_in_eval_mode_and_is_put_back():
    class NoisyHead(nn.Linear):
        def forward(self, hidden_states):
            return super().forward(nn.functional.dropout(hidden_states, 0.5, self.training))

    teacher_head, head = random_head(2, NoisyHead).train(), random_head(1)
    hidden_states, labels, *_ = random_batch()
    values = [
        chunked_loss(head, hidden_states, distillation_part(labels, teacher_head, hidden_states.detach())).loss
        for _ in range(2)
    ]
    assert values[0] == values[1]
    assert teacher_head.training


def test_evaluation_mode_restores_every_module_on_its_own():
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout()))
    model.train()
    model[1].eval()
    with contextlib.suppress(RuntimeError), evaluation_mode(model):
        assert not any(module.training for module in model.modules())
        raise RuntimeError
    assert [module.training for module in model.modules()] == [True, True, False, False]


def test_shape_mistakes_and_unknown_heads_are_named():
    hidden_states, labels, *_ = random_batch()
    with pytest.raises(ValueError, match="`labels`"):
        chunked_loss(random_head(), hidden_states, cross_entropy_part(labels[:, 1:]))
    with pytest.raises(ValueError, match="`chunk_size`"):
        chunked_loss(nn.Identity(), hidden_states, cross_entropy_part(labels))


def test_a_chunked_loss_can_be_differentiated_only_once():
    head = random_head()
    hidden_states, labels, *_ = random_batch()
    loss = chunked_loss(head, hidden_states, cross_entropy_part(labels)).loss
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="only once"):
        loss.backward()
