"""What splatfacto lacks, without nerfstudio."""
