"""Run directories into typed rows (`store`), tables beside the papers', figures."""
