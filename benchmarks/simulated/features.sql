SELECT item, partition, a, b, c, d FROM spine
