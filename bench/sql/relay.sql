CALL bench.measure_relay(:n, NULL);
