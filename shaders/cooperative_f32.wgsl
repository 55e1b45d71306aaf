// Matrices of floats, 8 by 8.

const SIDE = 8u;
alias Element = f32;
alias Left = coop_mat8x8<f32, A>;
alias Right = coop_mat8x8<f32, B>;
alias Sums = coop_mat8x8<f32, C>;
