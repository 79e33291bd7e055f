"""Which tests are to find the bugs of which package: arguments of pytest."""

from __future__ import annotations

_COMPILED = ("-k", "not triton")  # its interpreter is slow, and tests of its own package run it

# Folders whose bugs are not planted: without a device each test of these kernels takes minutes.
LEFT_OUT: dict[str, tuple[str, ...]] = {"pcircuits/execute": ("pcircuits/execute/triton/",)}

PACKAGES: dict[str, tuple[str, ...]] = {
    "pcircuits/compile": (
        "tests/pcircuits/test_folding.py",
        "tests/pcircuits/test_compile.py",
        "tests/pcircuits/test_reference.py",
        "tests/pcircuits/test_scalar_circuits.py",
        "tests/pcircuits/test_parameters.py",
        *_COMPILED,
    ),
    "pcircuits/execute": (
        "tests/pcircuits/test_execute.py",
        "tests/pcircuits/test_choice.py",
        "tests/pcircuits/test_fused.py",
        "tests/pcircuits/test_fused_memory.py",
        "tests/pcircuits/test_compiled_passes.py",
        "tests/pcircuits/test_fast_paths.py",
        "tests/pcircuits/test_reference.py",
        "tests/pcircuits/test_scalar_circuits.py",
        "tests/pcircuits/test_queries.py::test_leave_one_out_equals_enumeration",
        "tests/pcircuits/test_queries.py::test_listed_leave_one_out_is_that_of_all_categories",
        "tests/pcircuits/test_queries.py::test_listed_leave_one_out_is_differentiable",
        "tests/pcircuits/test_chain_passes.py",
        "tests/pcircuits/test_weights.py",
        "tests/pcircuits/test_backward.py",
        "tests/pcircuits/test_execute_limits.py",
        "tests/pcircuits/test_frozen.py",
        "tests/pcircuits/test_triton_chain.py",
        "-k",
        "not triton or torch",
    ),
    "pcircuits/queries": (
        "tests/pcircuits/test_queries.py",
        "tests/pcircuits/test_map.py",
        "tests/pcircuits/test_entropy.py",
        "tests/pcircuits/test_chain_information.py",
        "tests/pcircuits/test_incremental.py",
        "tests/pcircuits/test_query_gradients.py",
        "tests/pcircuits/test_every_query.py",
        "tests/pcircuits/test_query_limits.py",
        "tests/pcircuits/test_frozen.py",
        "tests/pcircuits/test_compiled_passes.py",
        "tests/pcircuits/test_scalar_circuits.py::test_queries_equal_enumeration",
        "tests/pcircuits/test_scalar_circuits.py::test_samples_follow_the_distribution",
        *_COMPILED,
    ),
    "codd/coupling": (
        "tests/codd/test_coupling.py",
        "tests/codd/test_coupling_targets.py",
        "tests/codd/test_coupling_arguments.py",
        "tests/codd/test_coupling_bounds.py",
        "tests/codd/test_coupling_stepper.py",
        "tests/codd/test_coupling_exact.py",
        "tests/codd/test_coupling_step.py",
        "tests/codd/test_training_listed.py",
        "tests/codd/test_model.py",
        "tests/codd/test_choice.py",
        *_COMPILED,
    ),
    "codd/decoding": (
        "tests/codd/test_decoding_parts.py",
        "tests/codd/test_decoding_limits.py",
        "tests/codd/test_decoding_bookkeeping.py",
        "tests/codd/test_decoding_automata.py",
        "tests/codd/test_decoding_steps.py",
        "tests/codd/test_decoding_options.py",
        "tests/codd/test_decoding_samplers.py",
        "tests/codd/test_decoding_quotas.py",
        "tests/codd/test_decoding_loop.py",
        "tests/codd/test_decoding_budgets.py",
        "tests/codd/test_decoding_model.py",
        "tests/codd/test_decoding_caches.py",
        "tests/codd/test_decoding_constraints.py",
        *_COMPILED,
    ),
}
