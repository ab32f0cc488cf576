"""Learning theory as pure functions: intervals, Bayes errors, risk decompositions, margins and margin bounds."""

from torchstone.bounds.baum_haussler import (
    baum_haussler_examples,
    baum_haussler_failure,
    threshold_log_growth,
    threshold_network_log_growth,
    threshold_sample_size,
)
from torchstone.bounds.bayes_error import (
    BayesErrorBracket,
    NeighbourError,
    bayes_error_interval,
    cover_hart_bracket,
    nearest_neighbour_error,
    tightest_bracket,
)
from torchstone.bounds.bias_variance import (
    BiasVariance,
    cross_entropy_bias_variance,
    squared_bias_variance,
    zero_one_bias_variance,
)
from torchstone.bounds.binary_kl import (
    binary_kl,
    kl_inverse_lower,
    kl_inverse_upper,
    stochastic_risk_upper,
)
from torchstone.bounds.bootstrap import bootstrap_interval
from torchstone.bounds.chaining import ChainingBound, chaining_bound
from torchstone.bounds.churn import (
    churn,
)
from torchstone.bounds.convex_baseline import convex_baseline
from torchstone.bounds.convolution import ConvolutionLayer, NormBracket, convolution_norm
from torchstone.bounds.covering import (
    Cover,
    CoveringNumber,
    covering_number,
    function_distances,
    greedy_cover,
    greedy_packing,
    largest_packing,
    least_cover,
)
from torchstone.bounds.covering_bounds import ball_log_cover, ball_log_cover_from_below, matrix_log_cover
from torchstone.bounds.cross_validation import NestedScores, nested_cross_validation
from torchstone.bounds.crossed import CrossedError, crossed_mean
from torchstone.bounds.decomposition import (
    RiskDecomposition,
    bayes_risk_of_law,
    empirical_risks,
    risk_decomposition,
    risks_under_law,
)
from torchstone.bounds.dense import DenseLayer
from torchstone.bounds.detectable_difference import (
    minimal_detectable_difference,
)
from torchstone.bounds.dichotomies import linear_dichotomies, linear_separator
from torchstone.bounds.dudley import (
    DudleyBound,
    dudley_bound,
    dudley_of_sample,
    log_entropy_integral,
)
from torchstone.bounds.fat_shattering import fat_shattering_bound, l1_fat_shattering, linear_fat_shattering
from torchstone.bounds.gaussian_kl import gaussian_kl
from torchstone.bounds.growth import (
    cover_count,
    log_sauer_bound,
    sauer_sum,
    separable_fraction,
    sign_change_growth,
)
from torchstone.bounds.holdout import HoldoutEstimate, holdout_estimate, looks_that_fit
from torchstone.bounds.interval import Interval
from torchstone.bounds.l1_margin import l1_margin_bound
from torchstone.bounds.leave_one_out import RidgeFit, k_fold_residuals, leave_one_out_residuals, ridge_fit
from torchstone.bounds.margin import margins, normalised_margins, path_norm, product_norm
from torchstone.bounds.mean import mean_interval
from torchstone.bounds.network_dichotomies import (
    relu_network_labellings,
    relu_network_realises,
    threshold_network_labellings,
)
from torchstone.bounds.network_path_norm import network_path_norm
from torchstone.bounds.pac_bayes import (
    PacBayesBound,
    catoni,
    catoni_grid,
    mcallester,
    pac_bayes_kl,
    quadratic,
)
from torchstone.bounds.parameter_count import NetworkSize, network_size, parameter_rate
from torchstone.bounds.piecewise_growth import (
    LayerSize,
    piecewise_linear_log_growth,
    piecewise_linear_vc_bound,
)
from torchstone.bounds.power_law import PowerLaw, fit_power_law
from torchstone.bounds.prior_grid import CentredGrid, PriorGrid
from torchstone.bounds.proportion import (
    bonferroni_difference,
    clopper_pearson,
    hoeffding,
    newcombe_difference,
    wilson,
)
from torchstone.bounds.rademacher import (
    RademacherComplexity,
    empirical_rademacher,
    rademacher_finite,
    rademacher_kernel,
    rademacher_linear,
)
from torchstone.bounds.rademacher_bounds import (
    contraction,
    linear_bracket,
    margin_risk_bound,
    massart,
    massart_bound,
    rademacher_risk_bound,
    vector_contraction,
)
from torchstone.bounds.rank_correlation import GranulatedTau, granulated_tau, kendall_tau, tau_interval
from torchstone.bounds.risk_bound import RiskBound
from torchstone.bounds.seed_comparison import (
    SeedComparison,
    compare_seeds,
    probability_of_outperforming,
)
from torchstone.bounds.sgd_stability import (
    StabilityBound,
    convex_stability,
    expansive_stability,
    nonconvex_stability,
    path_distance_bound,
    strongly_convex_stability,
)
from torchstone.bounds.shattering import VCDimension, is_shattered, shatters, shatters_linear, vc_dimension
from torchstone.bounds.sign_changes import count_sign_changes, piece_bound, trace_on_line
from torchstone.bounds.sparsification import Sparsification, maurey_sparsification, sparsify_linear
from torchstone.bounds.spectral import SpectralComplexity, spectral_complexity
from torchstone.bounds.spectral_margin import SpectralMarginBound, ramp_loss, spectral_margin_bound
from torchstone.bounds.stability import (
    expected_stability_gap,
    hypothesis_stability_bound,
    regularised_stability,
    stability_bound,
)
from torchstone.bounds.surrogate import (
    MarginLoss,
    SurrogateExcess,
    is_calibrated,
    psi_transform,
    surrogate_excess,
)
from torchstone.bounds.trained_rademacher import TrainedRademacher, trained_rademacher
from torchstone.bounds.uniform_deviation import (
    UniformDeviation,
    consistent_class_bound,
    finite_class_deviation,
    finite_class_risk_bound,
    finite_class_sample_size,
    occam_deviation,
    uniform_deviation,
)
from torchstone.bounds.vc import consistent_vc_bound, growth_risk_bound, vc_risk_bound
from torchstone.bounds.weight_size import (
    WeightSize,
    l1_rademacher,
    largest_coordinate_norm,
    two_layer_rademacher,
    weight_size,
)

__all__ = [
    "BayesErrorBracket",
    "BiasVariance",
    "CentredGrid",
    "ChainingBound",
    "ConvolutionLayer",
    "Cover",
    "CoveringNumber",
    "CrossedError",
    "DenseLayer",
    "DudleyBound",
    "GranulatedTau",
    "HoldoutEstimate",
    "Interval",
    "LayerSize",
    "MarginLoss",
    "NeighbourError",
    "NestedScores",
    "NetworkSize",
    "NormBracket",
    "PacBayesBound",
    "PowerLaw",
    "PriorGrid",
    "RademacherComplexity",
    "RidgeFit",
    "RiskBound",
    "RiskDecomposition",
    "SeedComparison",
    "Sparsification",
    "SpectralComplexity",
    "SpectralMarginBound",
    "StabilityBound",
    "SurrogateExcess",
    "TrainedRademacher",
    "UniformDeviation",
    "VCDimension",
    "WeightSize",
    "ball_log_cover",
    "ball_log_cover_from_below",
    "baum_haussler_examples",
    "baum_haussler_failure",
    "bayes_error_interval",
    "bayes_risk_of_law",
    "binary_kl",
    "bonferroni_difference",
    "bootstrap_interval",
    "catoni",
    "catoni_grid",
    "chaining_bound",
    "churn",
    "clopper_pearson",
    "compare_seeds",
    "consistent_class_bound",
    "consistent_vc_bound",
    "contraction",
    "convex_baseline",
    "convex_stability",
    "convolution_norm",
    "count_sign_changes",
    "cover_count",
    "cover_hart_bracket",
    "covering_number",
    "cross_entropy_bias_variance",
    "crossed_mean",
    "dudley_bound",
    "dudley_of_sample",
    "empirical_rademacher",
    "empirical_risks",
    "expansive_stability",
    "expected_stability_gap",
    "fat_shattering_bound",
    "finite_class_deviation",
    "finite_class_risk_bound",
    "finite_class_sample_size",
    "fit_power_law",
    "function_distances",
    "gaussian_kl",
    "granulated_tau",
    "greedy_cover",
    "greedy_packing",
    "growth_risk_bound",
    "hoeffding",
    "holdout_estimate",
    "hypothesis_stability_bound",
    "is_calibrated",
    "is_shattered",
    "k_fold_residuals",
    "kendall_tau",
    "kl_inverse_lower",
    "kl_inverse_upper",
    "l1_fat_shattering",
    "l1_margin_bound",
    "l1_rademacher",
    "largest_coordinate_norm",
    "largest_packing",
    "least_cover",
    "leave_one_out_residuals",
    "linear_bracket",
    "linear_dichotomies",
    "linear_fat_shattering",
    "linear_separator",
    "log_entropy_integral",
    "log_sauer_bound",
    "looks_that_fit",
    "margin_risk_bound",
    "margins",
    "massart",
    "massart_bound",
    "matrix_log_cover",
    "maurey_sparsification",
    "mcallester",
    "mean_interval",
    "minimal_detectable_difference",
    "nearest_neighbour_error",
    "nested_cross_validation",
    "network_path_norm",
    "network_size",
    "newcombe_difference",
    "nonconvex_stability",
    "normalised_margins",
    "occam_deviation",
    "pac_bayes_kl",
    "parameter_rate",
    "path_distance_bound",
    "path_norm",
    "piece_bound",
    "piecewise_linear_log_growth",
    "piecewise_linear_vc_bound",
    "probability_of_outperforming",
    "product_norm",
    "psi_transform",
    "quadratic",
    "rademacher_finite",
    "rademacher_kernel",
    "rademacher_linear",
    "rademacher_risk_bound",
    "ramp_loss",
    "regularised_stability",
    "relu_network_labellings",
    "relu_network_realises",
    "ridge_fit",
    "risk_decomposition",
    "risks_under_law",
    "sauer_sum",
    "separable_fraction",
    "shatters",
    "shatters_linear",
    "sign_change_growth",
    "sparsify_linear",
    "spectral_complexity",
    "spectral_margin_bound",
    "squared_bias_variance",
    "stability_bound",
    "stochastic_risk_upper",
    "strongly_convex_stability",
    "surrogate_excess",
    "tau_interval",
    "threshold_log_growth",
    "threshold_network_labellings",
    "threshold_network_log_growth",
    "threshold_sample_size",
    "tightest_bracket",
    "trace_on_line",
    "trained_rademacher",
    "two_layer_rademacher",
    "uniform_deviation",
    "vc_dimension",
    "vc_risk_bound",
    "vector_contraction",
    "weight_size",
    "wilson",
    "zero_one_bias_variance",
]
