"""How levels are made: the plan, the blocks, the reduction, and the stores of reduced levels between passes."""
