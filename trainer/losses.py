# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The losses: path loss, cross-entropy and distillation, each as a formula on logits and in a form that stores none.

The formulas, [`path_loss`], [`cross_entropy_loss`] and [`distillation_loss`], map logits `(positions, vocab_size)` to
one number for each position. Training starts from hidden states: `..._part` says which formula which rows take, and
[`chunked_loss`] runs the head on a few hundred positions at a time and takes the gradients of each chunk at once, so
that neither the forward nor the backward ever holds more than one chunk of logits, and no head matmul is done twice.

A row's loss is the mean over its positions that count (those whose label is not -100), the loss is the mean over rows.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from transformers_fsdfm.flow_fsdfm import Schedule

from .module_calls import run_as_forward, run_with_weights


IGNORE_INDEX = -100
# A chunk has at most so many positions that their float32 logits fill this much memory; a loss needs a few times that.
LOGITS_CHUNK_BYTES = {"cpu": 2**26, "accelerator": 2**28}

PositionLoss = Callable[..., Tensor]
HeadForward = Callable[[Tensor], Tensor]


# ---- The formulas ----------------------------------------------------------------------------------------------------


def path_weight(schedule: Schedule, time: Tensor, step_size: Tensor | None = None) -> Tensor:
    """
    The factor of the path loss: g(t), or with `step_size` the step-aware G(t, h) / h (FS-DFM eq. 4.3 and 4.4).

    Args:
        time (`torch.Tensor` of shape `(rows,)`): t in [0, 1).
        step_size (`torch.Tensor` of shape `(rows,)`, *optional*): h, with t + h < 1.

    Raises:
        `ValueError`: where the factor is infinite.
    """
    if step_size is None:
        weight, singular = schedule.velocity_scalar(time), "`time` must stay below 1"
    else:
        weight = schedule.cumulative_scalar(time, step_size) / step_size
        singular = "`time` + `step_size` must stay below 1"
    if not torch.isfinite(weight).all():
        raise ValueError(f"{singular}: the path loss is singular there")
    return weight


def path_loss(logits: Tensor, clean_ids: Tensor, noisy_ids: Tensor, weight: Tensor) -> Tensor:
    """
    Generalised KL divergence of the mixture path (Flow Matching guide eq. 7.31, FS-DFM eq. 3.8 and 4.4), per position:

        -weight * (p(x_t) - [x_t = x_1] + (1 - [x_t = x_1]) * log p(x_1))

    Args:
        logits (`torch.Tensor` of shape `(positions, vocab_size)`): of the posterior p(x_1 | x_t), any floating dtype.
        clean_ids, noisy_ids (`torch.LongTensor` of shape `(positions,)`): x_1 and x_t; a mask token in x_t, whose id is
            `vocab_size`, has p(x_t) = 0.
        weight (`torch.Tensor` of shape `(positions,)`): from [`path_weight`].

    Returns:
        `torch.FloatTensor` of shape `(positions,)`, in nats, >= 0.
    """
    log_probs = _at_least_float32(logits).log_softmax(-1)
    is_masked = noisy_ids >= logits.shape[-1]
    columns = torch.stack([clean_ids, noisy_ids.masked_fill(is_masked, 0)], dim=-1)
    clean_log_prob, noisy_log_prob = log_probs.gather(-1, columns).unbind(-1)
    noisy_prob = noisy_log_prob.exp().masked_fill(is_masked, 0)
    bracket = torch.where(noisy_ids == clean_ids, noisy_prob - 1, noisy_prob + clean_log_prob)
    return -weight * bracket


def cross_entropy_loss(logits: Tensor, clean_ids: Tensor) -> Tensor:
    """
    -log p(x_1) per position, the same for all times: the minimiser of the path loss without its weight 1 / (1 - t).

    Args and returns as in [`path_loss`].
    """
    return nn.functional.cross_entropy(_at_least_float32(logits), clean_ids, reduction="none")


def distillation_loss(
    logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    confidence_weighting: bool = False,
) -> Tensor:
    """
    Forward KL divergence from the teacher to the student (FS-DFM section 4.3), per position:

        temperature^2 * KL( softmax(teacher / temperature) || softmax(student / temperature) )

    Args:
        logits (`torch.Tensor` of shape `(positions, vocab_size)`): the student's, any floating dtype.
        teacher_logits (`torch.Tensor` of the same shape): no gradient flows into them; `-inf` bans a token.
        temperature (`float`, *optional*, defaults to 1.0): > 0.
        top_k (`int`, *optional*), top_p (`float`, *optional*):
            Compare on the teacher's k most likely tokens, or on its most likely ones with a total probability (at the
            given temperature) of at least p, both distributions renormalised there. One of the two at most.
        confidence_weighting (`bool`, *optional*, defaults to `False`):
            Multiply by 1 - H(teacher) / log(tokens compared): 1 where the teacher is certain, 0 where it knows nothing.

    Returns:
        `torch.FloatTensor` of shape `(positions,)`, in nats.
    """
    _check_distillation_options(logits.shape[-1], temperature, top_k, top_p)
    teacher_logits = teacher_logits.detach()
    if temperature != 1:
        logits, teacher_logits = (_at_least_float32(each) / temperature for each in (logits, teacher_logits))
    logits, teacher_logits = _restrict_to_support(logits, teacher_logits, top_k, top_p)
    loss = temperature**2 * _KLDivergence.apply(logits, teacher_logits)
    return loss * _confidence(teacher_logits) if confidence_weighting else loss


class _KLDivergence(torch.autograd.Function):
    """
    sum_v p(v) (log p(v) - log q(v)) for each row, with p the teacher's softmax and q the student's.

    Its gradient by the student's logits is q - p. Written out, because passes over (positions, vocab_size) are what a
    loss costs beside the head, and autograd would need twice as many. Float32 copies of low-precision logits live for
    one operation only.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, teacher_logits: Tensor) -> Tensor:
        log_q, log_p = (_at_least_float32(each).log_softmax(-1) for each in (logits, teacher_logits))
        p = log_p.exp()
        loss = log_p.sub_(log_q).mul_(p).masked_fill_(p == 0, 0).sum(-1)  # 0 log 0 = 0
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(log_q.exp_().sub_(p))
            ctx.dtype = logits.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, loss_grad: Tensor) -> tuple[Tensor, None]:
        (grad,) = ctx.saved_tensors
        return (grad * loss_grad[:, None]).to(ctx.dtype), None


def _confidence(logits: Tensor) -> Tensor:
    """1 - H / log(number of tokens with a finite logit); 1 if there is only one."""
    log_probs = _at_least_float32(logits).log_softmax(-1)
    probs = log_probs.exp()
    entropy = -torch.linalg.vecdot(probs, log_probs.masked_fill_(probs == 0, 0))
    support_size = torch.isfinite(logits).sum(-1).clamp_min(2)
    return (1 - entropy / support_size.to(entropy.dtype).log()).clamp(0, 1)


def _check_distillation_options(vocab_size: int, temperature: float, top_k: int | None, top_p: float | None) -> None:
    if not temperature > 0:
        raise ValueError(f"`temperature` must be > 0, but got {temperature}")
    if top_k is not None and top_p is not None:
        raise ValueError(f"`top_k` ({top_k}) and `top_p` ({top_p}) exclude each other")
    if top_k is not None and not 1 <= top_k <= vocab_size:
        raise ValueError(f"`top_k` must be in [1, {vocab_size}], but got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"`top_p` must be in (0, 1], but got {top_p}")


def _restrict_to_support(
    logits: Tensor, teacher_logits: Tensor, top_k: int | None, top_p: float | None
) -> tuple[Tensor, Tensor]:
    """Both logits on the teacher's most likely tokens; what does not count is left out (top-k) or `-inf` (top-p)."""
    if top_k is not None:
        teacher_logits, columns = teacher_logits.topk(top_k)
        return logits.gather(-1, columns), teacher_logits
    if top_p is not None and top_p < 1:
        teacher_logits, columns = teacher_logits.sort(descending=True)
        probs = _at_least_float32(teacher_logits).softmax(-1)
        outside = probs.cumsum(-1) - probs >= top_p  # the tokens before this one have enough
        logits = logits.gather(-1, columns).masked_fill(outside, -torch.inf)
        return logits, teacher_logits.masked_fill(outside, -torch.inf)
    return logits, teacher_logits


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


# ---- From hidden states, in chunks -----------------------------------------------------------------------------------


class HeadLoss(NamedTuple):
    """
    Attributes:
        loss (`torch.FloatTensor` of shape `()`): mean over rows; carries the gradient.
        row_loss (`torch.FloatTensor` of shape `(rows,)`): mean over the row's positions, 0 if none counts; detached.
    """

    loss: Tensor
    row_loss: Tensor


class LossPart(NamedTuple):
    """
    The formula that some rows take, and what it needs beside their logits.

    Attributes:
        counted (`torch.BoolTensor` of shape `(rows, length)`): the positions over which a row's mean is taken.
        position_loss (`Callable`): `(logits, *position_inputs) -> (n,)`, on n positions.
        position_inputs (`tuple[torch.Tensor]`): of shape `(rows, length, ...)`.
        teacher_head (`nn.Module`, *optional*): if given, the last input is hidden states of the teacher, in whose place
            `position_loss` gets the logits that this head makes of them.
    """

    counted: Tensor
    position_loss: PositionLoss
    position_inputs: tuple[Tensor, ...]
    teacher_head: nn.Module | None = None


def path_part(labels: Tensor, noisy_ids: Tensor, weight: Tensor) -> LossPart:
    """
    Rows that take the [`path_loss`].

    Args:
        labels (`torch.LongTensor` of shape `(rows, length)`): x_1, or -100 at positions that do not count.
        noisy_ids (`torch.LongTensor` of shape `(rows, length)`): x_t.
        weight (`torch.Tensor` of shape `(rows,)`): from [`path_weight`].
    """
    return LossPart(labels != IGNORE_INDEX, path_loss, (labels, noisy_ids, weight[:, None].expand(labels.shape)))


def cross_entropy_part(labels: Tensor) -> LossPart:
    """Rows that take the [`cross_entropy_loss`]; `labels` as in [`path_part`]."""
    return LossPart(labels != IGNORE_INDEX, cross_entropy_loss, (labels,))


def distillation_part(
    labels: Tensor, teacher_head: nn.Module, teacher_hidden_states: Tensor, **options: Any
) -> LossPart:
    """
    Rows that take the [`distillation_loss`].

    The target is an average of teacher logits, (l1 + 2 l2 + 2 l3 + l4) / 6 or (l1 + l2) / 2. A head is affine and the
    weights sum to 1, so the average of the logits is the head of the averaged hidden states: the teacher hands over
    those, and its head runs once on each chunk.

    Args:
        labels (`torch.LongTensor` of shape `(rows, length)`): only read for where it is -100.
        teacher_head (`nn.Module`): the teacher's head, affine; used in eval mode and without gradient.
        teacher_hidden_states (`torch.Tensor` of shape `(rows, length, hidden_size)`): from [`shortcut_target`]; not
            looked at if there are no rows.
        options: `temperature`, `top_k`, `top_p` and `confidence_weighting` of [`distillation_loss`].
    """
    position_loss = partial(distillation_loss, **options)
    return LossPart(labels != IGNORE_INDEX, position_loss, (teacher_hidden_states,), teacher_head)


def chunked_loss(head: nn.Module, hidden_states: Tensor, *parts: LossPart, chunk_size: int | None = None) -> HeadLoss:
    """
    The mean over the rows of all parts, no weight between them, without ever holding the logits of all positions.

    The gradients of a chunk are computed right after its loss and added up, over all parts: one head matmul forward and
    two backward, nothing stored but the gradients and nothing computed twice (recomputing the logits in the backward
    would cost a fourth matmul, and the teacher's once more). What counts is only that the loss is linear in the numbers
    that `position_loss` gives, with weights known in advance: the means over positions and rows.

    Everything happens inside one call of `head`, whose hooks thus gather sharded weights (ZeRO-3, FSDP2, offloading)
    once, before the first chunk, and once more for the backward; so does the head of a teacher. The hooks run, and the
    weights get a gradient, whatever rows there are: other processes wait for both. Positions that do not count never
    reach the head. Mind that float16 gradients may underflow here, for a gradient scaler acts only later; bfloat16 and
    float32 are fine.

    Args:
        head (`nn.Module`): hidden states `(n, hidden_size)` -> logits `(n, vocab_size)`; LoRA or quantisation inside it
            is fine.
        hidden_states (`torch.Tensor` of shape `(rows, length, hidden_size)`): the backbone's output; the rows of the
            first part, then those of the second.
        parts ([`LossPart`]): any of them may have no rows.
        chunk_size (`int`, *optional*): positions whose logits exist at a time; chosen by [`positions_per_chunk`] if not
            given, from the `out_features` of the head.
    """
    counted = torch.cat([part.counted for part in parts])
    if hidden_states.shape[:2] != counted.shape:
        raise ValueError(
            f"`labels` of shape {tuple(counted.shape)} do not match `hidden_states` of shape "
            f"{tuple(hidden_states.shape)}"
        )
    if chunk_size is None:
        chunk_size = positions_per_chunk(_num_outputs(head), hidden_states.device)
    chunks = [chunk for part in parts for chunk in _chunks(part, chunk_size)]
    position = counted.flatten().nonzero()[:, 0]
    row = position // counted.shape[1]
    row_share = 1 / counted.sum(-1)[row].float()
    weight = row_share / max(len(counted), 1)

    def compute() -> tuple[Tensor, Tensor]:
        losses_of = partial(_loss_in_chunks, head=head, chunks=chunks, weight=weight)
        return run_as_forward(head, losses_of, hidden_states.flatten(0, 1).index_select(0, position))

    for part in parts:
        if part.teacher_head is not None:
            compute = partial(run_with_weights, part.teacher_head, compute, hidden_states.detach())
    loss, position_losses = compute()
    row_loss = row_share.new_zeros(len(counted)).index_add_(0, row, position_losses * row_share)
    return HeadLoss(loss, row_loss)


def positions_per_chunk(vocab_size: int, device: torch.device) -> int:
    """Positions whose float32 logits fill the memory set aside for them."""
    return max(1, LOGITS_CHUNK_BYTES["cpu" if device.type == "cpu" else "accelerator"] // (4 * vocab_size))


def equal_chunks(values: Tensor, chunk_size: int) -> tuple[Tensor, ...]:
    """
    Splits the first dimension into as few chunks as can be, none longer than `chunk_size`, at least one.

    Their lengths differ by 1 at most: a short chunk at the end would cost nearly as much as a whole one, for each reads
    the weights of the head and writes their gradient.
    """
    return values.tensor_split(max(1, math.ceil(len(values) / chunk_size)))


@contextlib.contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Puts a module into eval mode, and afterwards each of its submodules back into the mode it was in."""
    in_training = [submodule for submodule in module.modules() if submodule.training]
    module.eval()
    try:
        yield
    finally:
        for submodule in in_training:
            submodule.training = True


def _num_outputs(head: nn.Module) -> int:
    num_outputs = getattr(head, "out_features", None)
    if num_outputs is None:
        raise ValueError(f"`chunk_size` is required, because `head` ({type(head).__name__}) has no `out_features`")
    return num_outputs


class _Chunk(NamedTuple):
    """Positions of a part whose logits exist at a time."""

    part: LossPart
    inputs: tuple[Tensor, ...]

    def losses(self, logits: Tensor) -> Tensor:
        """`(n,)` of logits `(n, vocab_size)`."""
        *inputs, last = self.inputs
        if self.part.teacher_head is not None:
            with torch.no_grad(), evaluation_mode(self.part.teacher_head):
                last = self.part.teacher_head.forward(last)  # its hooks have run
        return self.part.position_loss(logits, *inputs, last)


def _chunks(part: LossPart, chunk_size: int) -> list[_Chunk]:
    """None if no position counts."""
    position = part.counted.flatten().nonzero()[:, 0]
    if not len(position):
        return []
    inputs = (equal_chunks(value.flatten(0, 1)[position], chunk_size) for value in part.position_inputs)
    return [_Chunk(part, of_chunk) for of_chunk in zip(*inputs, strict=True)]


def _loss_in_chunks(
    head_forward: HeadForward, hidden_states: Tensor, *, head: nn.Module, chunks: list[_Chunk], weight: Tensor
) -> tuple[Tensor, Tensor]:
    parameters = [parameter for parameter in head.parameters() if parameter.requires_grad]
    if any(not parameter.numel() for parameter in parameters):
        raise ValueError(
            "`head` has weights that ZeRO-3 shards inside of it, such as a LoRA adapter of its own; leave the head out "
            "of `target_modules`, or use ZeRO-2"
        )
    needs_grad = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (hidden_states, *parameters))
    return _LossInChunks.apply(head_forward, chunks, weight, needs_grad, hidden_states, *parameters)


class _LossInChunks(torch.autograd.Function):
    """The weighted sum of the position losses (with gradient) and the position losses (without)."""

    @staticmethod
    def forward(
        ctx: Any,
        head_forward: HeadForward,
        chunks: list[_Chunk],
        weight: Tensor,
        needs_grad: bool,
        hidden_states: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        losses, hidden_grad = torch.empty_like(weight), torch.empty_like(hidden_states)
        # DDP and ZeRO want a gradient, be it zero, from every process.
        parameter_grads = [None if chunks else torch.zeros_like(parameter) for parameter in parameters]
        sizes = [len(chunk.inputs[0]) for chunk in chunks]
        by_chunk = (values.split(sizes) for values in (hidden_states, weight, losses, hidden_grad))
        for chunk, hidden, share, losses_here, hidden_grad_here in zip(chunks, *by_chunk, strict=True):
            with torch.set_grad_enabled(needs_grad):
                hidden = hidden.detach().requires_grad_(needs_grad)
                chunk_losses = chunk.losses(head_forward(hidden))
            losses_here.copy_(chunk_losses.detach())
            if needs_grad:
                share = share.to(chunk_losses.dtype)
                grads = torch.autograd.grad(chunk_losses, (hidden, *parameters), share, allow_unused=True)
                hidden_grad_here.copy_(grads[0])
                parameter_grads = list(map(_add, parameter_grads, grads[1:]))
                del grads  # or they would be there beside the next chunk's logits
        ctx.grads = (hidden_grad, *parameter_grads)
        ctx.dtypes = [tensor.dtype for tensor in (hidden_states, *parameters)]
        ctx.mark_non_differentiable(losses)
        return (losses * weight).sum(), losses

    @staticmethod
    def backward(ctx: Any, loss_grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.grads is None:
            raise RuntimeError("The gradients of a chunked loss can be taken only once")
        grads, ctx.grads = ctx.grads, None
        scaled = (None if grad is None else grad.mul_(loss_grad) for grad in grads)
        cast = (None if grad is None else grad.to(dtype) for grad, dtype in zip(scaled, ctx.dtypes, strict=True))
        return None, None, None, None, *cast


def _add(total: Tensor | None, grad: Tensor | None) -> Tensor | None:
    """Adds up the gradients of chunks, in float32 whatever the dtype of the weights."""
    if grad is None or total is None:
        return total if grad is None else _at_least_float32(grad)
    return total.add_(grad)
