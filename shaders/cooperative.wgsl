// Directives go before everything else of a module.

enable f16;
enable wgpu_cooperative_matrix;

