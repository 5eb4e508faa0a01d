"""What the thermal detector takes for normal: spans, levels and bounds, all in s, °C and °C/W."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PhysicsSettings:
    """Defaults hold for air and liquid alike: what differs between sites is learnt."""

    bank_s: tuple[float, ...] = (1.5, 6.0, 24.0, 96.0)
    """Time constants of the lags of power whose sum explains a temperature."""
    memory_s: float = 3 * 86_400.0
    """How long the reference remembers; what ages faster than this shows as a residual."""
    settle_s: float = 240.0
    """After the first sample of a GPU, until the lags of its power are known."""
    warm_up_s: float = 420.0
    """What is learnt of a place at least before it can be said to have changed."""
    fast_s: float = 2.0
    """Mean of the residual that is looked at for a sudden change …"""
    baseline_s: float = 30.0
    """… and the mean that it is compared with: where inlets wander, near the best for what grows
    over a minute."""
    fast_sigmas: float = 4.2
    """From so many units of its own learnt noise on what a rack, hall or site shows is evidence of
    a sudden change …"""
    fast_enough: float = 2.0
    """… and so many beyond that, added up over samples, are enough to be told."""
    fast_node_sigmas: float = 4.8
    fast_node_enough: float = 2.5
    fast_node_rise_c: float = 0.5
    fast_gpu_sigmas: float = 5.5
    fast_gpu_enough: float = 7.0
    fast_rise_c: float = 0.35
    """A sudden change is at least this warm at its warmest GPU."""
    fast_gpu_rise_c: float = 2.5
    fast_gpu_step: float = 0.35
    """Of the largest step of a GPU's rise in the last while, which it has to be warm beyond that."""
    fast_lone_sigmas: float = 2.5
    """The same of a GPU that is all that its node has."""
    fast_lone_enough: float = 8.0
    fast_lone_rise_c: float = 0.8
    slow_s: float = 900.0
    """Mean of the residual that is compared with the reference for a creeping change."""
    slow_lasts_s: float = 2_400.0
    """For so long a creeping change is beyond its level before it is told."""
    slow_gpu_rise_c: float = 2.0
    slow_node_rise_c: float = 1.4
    slow_rack_rise_c: float = 1.7
    slow_hall_rise_c: float = 2.0
    slow_sigmas: float = 5.5
    hour_s: float = 3_600.0
    """The same of a rack or a hall by the mean of an hour, in which less of what wanders is left."""
    hour_lasts_s: float = 900.0
    hour_rack_rise_c: float = 1.15
    hour_hall_rise_c: float = 1.5
    hour_sigmas: float = 4.5
    outlier_c: float = 8.0
    """Steadily warmer than its siblings at like power, without having become so."""
    clear_ratio: float = 0.4
    """Of what a finding began with: below it for `clear_s` it is over."""
    clear_s: float = 60.0
    brake_share: float = 0.05
    """Of the time, with clocks held down by the power brake."""
