"""A composite at work: the mode that runs one forward pass under it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from methods3d.errors import RuleError
from methods3d.functions import PRODUCTS, QUOTIENTS
from methods3d.rewriting import Handler, Rewriting
from methods3d.rules.activations import ACTIVATIONS, GATES, activation
from methods3d.rules.composite import Composite, Rule
from methods3d.rules.linear import Epsilon, LinearRule, Zero
from methods3d.rules.norms import NORMS, OPERATORS
from methods3d.rules.pooling import POOLS, Proportional, max_pool
from methods3d.rules.products import AttnLRP, gate, product, quotient, scaled_dot_product_attention, softmax
from methods3d.rules.weighted import Weighted, exactly, rescaled

__all__ = ["LINEAR", "Propagation"]

LINEAR = {
    "linear": "linear",
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), "conv"),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), "conv"),
}


@dataclass(frozen=True)
class Propagation:
    """Layer-wise relevance propagation under a composite.

    Attributes
    ----------
    composite : the rules.
    bias : "spread" distributes biases and norm shifts over the inputs by |contribution|; "absorb" books them.
    measured : whether each site's relevance in and out is measured, too.
    """

    composite: Composite
    bias: Literal["spread", "absorb"] = "spread"
    measured: bool = False

    def rewriting(self, batch: int) -> Rewriting:
        """The mode for one forward pass."""
        return Propagating(self, batch)

    @property
    def sums(self) -> int:
        """How many sums over its inputs a linear function takes: s, and a where a rule or a bias needs it."""
        plain = all(
            isinstance(rule, Zero | Epsilon) for _, rule in self.composite.entries if isinstance(rule, LinearRule)
        )
        return 1 if plain and self.bias == "absorb" else 2


class Propagating(Rewriting):
    """One forward pass under a composite."""

    def __init__(self, rules: Propagation, batch: int) -> None:
        super().__init__(HANDLERS, batch, measured=rules.measured)
        self.composite, self.spread = rules.composite, rules.bias == "spread"
        self.read = False  # whether a linear function has read the scan

    @contextmanager
    def over(self, net: nn.Module, given: Tensor | None = None) -> Iterator[None]:
        """The mode over a network whose layers the composite names; `given` is the scan, if it is read."""
        self.composite.check([name for name, _ in net.named_modules()])
        reads = [
            (place, rule)
            for place, rule in self.composite.entries
            if isinstance(rule, LinearRule) and (place == "first" or rule.needs_voxels)
        ]
        if reads and given is not None:
            self.mark(given)
        with super().over(net):
            yield
        if reads and given is not None and not self.read:
            place, rule = reads[0]
            raise RuleError(
                f"The composite has {f'{place}: {rule.name}'!r}, but no linear function of the network reads the scan "
                "itself: take a composite without it, such as gamma or epsilon."
            )

    def rule_for(self, kind: str, *, first: bool = False) -> Rule:
        """The rule that serves this function."""
        rule = self.composite.rule(kind, self.modules, first=first)
        self.rule = rule.name
        return rule


def weighted(
    mode: Propagating,
    func: Callable[..., Tensor],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *rest: Any,
    **kwargs: Any,
) -> Tensor:
    """A linear function under its rule."""
    layer = Weighted(
        mode,
        lambda x, w, b: func(x, w, b, *rest, **kwargs),
        input,
        weight,
        bias,
        spread=mode.spread,
    )
    first = layer.voxels is not None
    mode.read |= first
    rule = mode.rule_for(LINEAR[mode.site.function], first=first)
    assert isinstance(rule, LinearRule)  # the composite looked
    if rule.needs_voxels and not first:
        raise RuleError(
            f"The rule {rule.name!r} shares relevance among the scan's voxels, but {mode.site} does not read the scan: "
            f"write 'first: {rule.name}'."
        )
    parts = [rescaled(mode, z, value, rule.epsilon, one_sided=rule.one_sided) for z, value in rule.terms(layer)]
    out = exactly(layer.y, parts[0] if len(parts) == 1 else parts[0] + parts[1])
    mode.lineage.set_reach(out, lambda site=mode.site: mode.watched(layer.a, received=site))  # type: ignore[misc]
    return out


def norm(mode: Propagating, func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """A normalisation under its rule."""
    # torch.batch_norm and exported programs have their arguments in another order than torch.nn.functional.
    read = (NORMS if isinstance(func, FunctionType) else OPERATORS)[mode.site.function]
    rule: Any = mode.rule_for("norm")
    found = read(*args, **kwargs)
    args, kwargs = (args or (kwargs["input"],)), {k: v for k, v in kwargs.items() if k != "input"}
    return exactly(func(found.x.detach(), *args[1:], **kwargs), rule.normalised(mode, found, spread=mode.spread))


def pool(mode: Propagating, func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Any:
    """Max pooling under its rule; winner takes all is what autograd does."""
    if not isinstance(mode.rule_for("pool"), Proportional):
        return NotImplemented
    return max_pool(mode, func, *args, **kwargs)


def padded(
    rewriting: Rewriting,
    func: Callable[..., Tensor],
    input: Tensor,
    pad: Any,
    *rest: Any,
    **kwargs: Any,
) -> Any:
    """What is padded with a number other than zero is a constant."""
    how, value = (*rest, "constant", None)[:2] if len(rest) != 1 else (rest[0], None)
    how, value = kwargs.get("mode", how), kwargs.get("value", value)
    if not isinstance(how, str):  # an exported program has the value there
        how, value = "constant", how
    if how != "constant" or not value:
        return NotImplemented
    rim = F.pad(input.new_zeros(input.shape), pad, value=value)
    return F.pad(input, pad) + rewriting.constant("constant", rim)


def chosen(kind: str, handler: Handler) -> Handler:
    """A handler that is told whether what it multiplies with is held fixed."""

    def handle(mode: Propagating, func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Any:
        return handler(mode, func, *args, fixed=not isinstance(mode.rule_for(kind), AttnLRP), **kwargs)

    return handle


HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(LINEAR, weighted),
    **dict.fromkeys(NORMS, norm),
    **dict.fromkeys(POOLS, pool),
    **dict.fromkeys(ACTIVATIONS, activation),
    **dict.fromkeys(GATES, chosen("gate", gate)),
    "softmax": chosen("softmax", softmax),
    "scaled_dot_product_attention": chosen("softmax", scaled_dot_product_attention),
    **dict.fromkeys(PRODUCTS, product),
    **dict.fromkeys(QUOTIENTS, quotient),
    **dict.fromkeys(("pad", "constant_pad_nd"), padded),
}
