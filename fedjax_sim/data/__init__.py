"""Image data sets, partitions over clients, triggers, augmentation."""
