"""Dense circuits on the CPU in linear space: one scale a row, one matrix product a sum."""
