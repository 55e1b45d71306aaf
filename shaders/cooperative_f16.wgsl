// Matrices of halves, 16 by 16, with sums in f32.

const SIDE = 16u;
alias Element = f16;
alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sums = coop_mat16x16<f32, C>;
