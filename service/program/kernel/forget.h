/* Forgets what block.h was included with. */
#undef NAME
#undef TARGET
#undef LANES
#undef MAX_VECTORS
#undef VECTOR
#undef LOAD
#undef STORE
#undef SPREAD
#undef FMA
#undef ADD
#undef MUL
#undef ZERO
