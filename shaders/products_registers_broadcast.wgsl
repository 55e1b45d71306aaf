// The product of `products_plain.wgsl` for one row, with the weights in the registers of
// `registers.wgsl`: HELD of them, HELD >= depth.
//
// The form for the software driver, see `products_broadcast.wgsl`.

fn term(at: u32, left: bool) -> f32 {
    return select(0.0, x_word(at), left);
}

fn products(first: u32, stride: u32, depth: u32, lane: u32, o0: u32, o1: u32, o2: u32, o3: u32, o4: u32, o5: u32, o6: u32, o7: u32) {
    var sum = vec4<f32>();
    var x = 0.0;
    x = term(o0 + min(lane, depth - 1u), lane < depth);
    sum += r0 * subgroupBroadcast(x, 0u);
    sum += r1 * subgroupBroadcast(x, 1u);
    sum += r2 * subgroupBroadcast(x, 2u);
    sum += r3 * subgroupBroadcast(x, 3u);
    sum += r4 * subgroupBroadcast(x, 4u);
    sum += r5 * subgroupBroadcast(x, 5u);
    sum += r6 * subgroupBroadcast(x, 6u);
    sum += r7 * subgroupBroadcast(x, 7u);
    x = term(o0 + min(8u + lane, depth - 1u), 8u + lane < depth);
    sum += r8 * subgroupBroadcast(x, 0u);
    sum += r9 * subgroupBroadcast(x, 1u);
    sum += r10 * subgroupBroadcast(x, 2u);
    sum += r11 * subgroupBroadcast(x, 3u);
    sum += r12 * subgroupBroadcast(x, 4u);
    sum += r13 * subgroupBroadcast(x, 5u);
    sum += r14 * subgroupBroadcast(x, 6u);
    sum += r15 * subgroupBroadcast(x, 7u);
    if HELD > 16u {
        x = term(o0 + min(16u + lane, depth - 1u), 16u + lane < depth);
        sum += r16 * subgroupBroadcast(x, 0u);
        sum += r17 * subgroupBroadcast(x, 1u);
        sum += r18 * subgroupBroadcast(x, 2u);
        sum += r19 * subgroupBroadcast(x, 3u);
        sum += r20 * subgroupBroadcast(x, 4u);
        sum += r21 * subgroupBroadcast(x, 5u);
        sum += r22 * subgroupBroadcast(x, 6u);
        sum += r23 * subgroupBroadcast(x, 7u);
        x = term(o0 + min(24u + lane, depth - 1u), 24u + lane < depth);
        sum += r24 * subgroupBroadcast(x, 0u);
        sum += r25 * subgroupBroadcast(x, 1u);
        sum += r26 * subgroupBroadcast(x, 2u);
        sum += r27 * subgroupBroadcast(x, 3u);
        sum += r28 * subgroupBroadcast(x, 4u);
        sum += r29 * subgroupBroadcast(x, 5u);
        sum += r30 * subgroupBroadcast(x, 6u);
        sum += r31 * subgroupBroadcast(x, 7u);
    }
    if HELD > 32u {
        x = term(o0 + min(32u + lane, depth - 1u), 32u + lane < depth);
        sum += r32 * subgroupBroadcast(x, 0u);
        sum += r33 * subgroupBroadcast(x, 1u);
        sum += r34 * subgroupBroadcast(x, 2u);
        sum += r35 * subgroupBroadcast(x, 3u);
        sum += r36 * subgroupBroadcast(x, 4u);
        sum += r37 * subgroupBroadcast(x, 5u);
        sum += r38 * subgroupBroadcast(x, 6u);
        sum += r39 * subgroupBroadcast(x, 7u);
        x = term(o0 + min(40u + lane, depth - 1u), 40u + lane < depth);
        sum += r40 * subgroupBroadcast(x, 0u);
        sum += r41 * subgroupBroadcast(x, 1u);
        sum += r42 * subgroupBroadcast(x, 2u);
        sum += r43 * subgroupBroadcast(x, 3u);
        sum += r44 * subgroupBroadcast(x, 4u);
        sum += r45 * subgroupBroadcast(x, 5u);
        sum += r46 * subgroupBroadcast(x, 6u);
        sum += r47 * subgroupBroadcast(x, 7u);
    }
    if HELD > 48u {
        x = term(o0 + min(48u + lane, depth - 1u), 48u + lane < depth);
        sum += r48 * subgroupBroadcast(x, 0u);
        sum += r49 * subgroupBroadcast(x, 1u);
        sum += r50 * subgroupBroadcast(x, 2u);
        sum += r51 * subgroupBroadcast(x, 3u);
        sum += r52 * subgroupBroadcast(x, 4u);
        sum += r53 * subgroupBroadcast(x, 5u);
        sum += r54 * subgroupBroadcast(x, 6u);
        sum += r55 * subgroupBroadcast(x, 7u);
        x = term(o0 + min(56u + lane, depth - 1u), 56u + lane < depth);
        sum += r56 * subgroupBroadcast(x, 0u);
        sum += r57 * subgroupBroadcast(x, 1u);
        sum += r58 * subgroupBroadcast(x, 2u);
        sum += r59 * subgroupBroadcast(x, 3u);
        sum += r60 * subgroupBroadcast(x, 4u);
        sum += r61 * subgroupBroadcast(x, 5u);
        sum += r62 * subgroupBroadcast(x, 6u);
        sum += r63 * subgroupBroadcast(x, 7u);
    }
    if HELD > 64u {
        x = term(o0 + min(64u + lane, depth - 1u), 64u + lane < depth);
        sum += r64 * subgroupBroadcast(x, 0u);
        sum += r65 * subgroupBroadcast(x, 1u);
        sum += r66 * subgroupBroadcast(x, 2u);
        sum += r67 * subgroupBroadcast(x, 3u);
        sum += r68 * subgroupBroadcast(x, 4u);
        sum += r69 * subgroupBroadcast(x, 5u);
        sum += r70 * subgroupBroadcast(x, 6u);
        sum += r71 * subgroupBroadcast(x, 7u);
        x = term(o0 + min(72u + lane, depth - 1u), 72u + lane < depth);
        sum += r72 * subgroupBroadcast(x, 0u);
        sum += r73 * subgroupBroadcast(x, 1u);
        sum += r74 * subgroupBroadcast(x, 2u);
        sum += r75 * subgroupBroadcast(x, 3u);
        sum += r76 * subgroupBroadcast(x, 4u);
        sum += r77 * subgroupBroadcast(x, 5u);
        sum += r78 * subgroupBroadcast(x, 6u);
        sum += r79 * subgroupBroadcast(x, 7u);
    }
    if HELD > 80u {
        x = term(o0 + min(80u + lane, depth - 1u), 80u + lane < depth);
        sum += r80 * subgroupBroadcast(x, 0u);
        sum += r81 * subgroupBroadcast(x, 1u);
        sum += r82 * subgroupBroadcast(x, 2u);
        sum += r83 * subgroupBroadcast(x, 3u);
        sum += r84 * subgroupBroadcast(x, 4u);
        sum += r85 * subgroupBroadcast(x, 5u);
        sum += r86 * subgroupBroadcast(x, 6u);
        sum += r87 * subgroupBroadcast(x, 7u);
        x = term(o0 + min(88u + lane, depth - 1u), 88u + lane < depth);
        sum += r88 * subgroupBroadcast(x, 0u);
        sum += r89 * subgroupBroadcast(x, 1u);
        sum += r90 * subgroupBroadcast(x, 2u);
        sum += r91 * subgroupBroadcast(x, 3u);
        sum += r92 * subgroupBroadcast(x, 4u);
        sum += r93 * subgroupBroadcast(x, 5u);
        sum += r94 * subgroupBroadcast(x, 6u);
        sum += r95 * subgroupBroadcast(x, 7u);
    }
    if HELD > 96u {
        x = term(o0 + min(96u + lane, depth - 1u), 96u + lane < depth);
        sum += r96 * subgroupBroadcast(x, 0u);
        sum += r97 * subgroupBroadcast(x, 1u);
        sum += r98 * subgroupBroadcast(x, 2u);
        sum += r99 * subgroupBroadcast(x, 3u);
        sum += r100 * subgroupBroadcast(x, 4u);
        sum += r101 * subgroupBroadcast(x, 5u);
        sum += r102 * subgroupBroadcast(x, 6u);
        sum += r103 * subgroupBroadcast(x, 7u);
        x = term(o0 + min(104u + lane, depth - 1u), 104u + lane < depth);
        sum += r104 * subgroupBroadcast(x, 0u);
        sum += r105 * subgroupBroadcast(x, 1u);
        sum += r106 * subgroupBroadcast(x, 2u);
        sum += r107 * subgroupBroadcast(x, 3u);
        sum += r108 * subgroupBroadcast(x, 4u);
        sum += r109 * subgroupBroadcast(x, 5u);
        sum += r110 * subgroupBroadcast(x, 6u);
        sum += r111 * subgroupBroadcast(x, 7u);
    }
    if HELD > 112u {
        x = term(o0 + min(112u + lane, depth - 1u), 112u + lane < depth);
        sum += r112 * subgroupBroadcast(x, 0u);
        sum += r113 * subgroupBroadcast(x, 1u);
        sum += r114 * subgroupBroadcast(x, 2u);
        sum += r115 * subgroupBroadcast(x, 3u);
        sum += r116 * subgroupBroadcast(x, 4u);
        sum += r117 * subgroupBroadcast(x, 5u);
        sum += r118 * subgroupBroadcast(x, 6u);
        sum += r119 * subgroupBroadcast(x, 7u);
        x = term(o0 + min(120u + lane, depth - 1u), 120u + lane < depth);
        sum += r120 * subgroupBroadcast(x, 0u);
        sum += r121 * subgroupBroadcast(x, 1u);
        sum += r122 * subgroupBroadcast(x, 2u);
        sum += r123 * subgroupBroadcast(x, 3u);
        sum += r124 * subgroupBroadcast(x, 4u);
        sum += r125 * subgroupBroadcast(x, 5u);
        sum += r126 * subgroupBroadcast(x, 6u);
        sum += r127 * subgroupBroadcast(x, 7u);
    }
    if HELD > 128u {
        x = term(o0 + min(128u + lane, depth - 1u), 128u + lane < depth);
        sum += r128 * subgroupBroadcast(x, 0u);
        sum += r129 * subgroupBroadcast(x, 1u);
        sum += r130 * subgroupBroadcast(x, 2u);
        sum += r131 * subgroupBroadcast(x, 3u);
        sum += r132 * subgroupBroadcast(x, 4u);
        sum += r133 * subgroupBroadcast(x, 5u);
        sum += r134 * subgroupBroadcast(x, 6u);
        sum += r135 * subgroupBroadcast(x, 7u);
        x = term(o0 + min(136u + lane, depth - 1u), 136u + lane < depth);
        sum += r136 * subgroupBroadcast(x, 0u);
        sum += r137 * subgroupBroadcast(x, 1u);
        sum += r138 * subgroupBroadcast(x, 2u);
        sum += r139 * subgroupBroadcast(x, 3u);
        sum += r140 * subgroupBroadcast(x, 4u);
        sum += r141 * subgroupBroadcast(x, 5u);
        sum += r142 * subgroupBroadcast(x, 6u);
        sum += r143 * subgroupBroadcast(x, 7u);
    }
    if HELD > 144u {
        x = term(o0 + min(144u + lane, depth - 1u), 144u + lane < depth);
        sum += r144 * subgroupBroadcast(x, 0u);
        sum += r145 * subgroupBroadcast(x, 1u);
        sum += r146 * subgroupBroadcast(x, 2u);
        sum += r147 * subgroupBroadcast(x, 3u);
        sum += r148 * subgroupBroadcast(x, 4u);
        sum += r149 * subgroupBroadcast(x, 5u);
        sum += r150 * subgroupBroadcast(x, 6u);
        sum += r151 * subgroupBroadcast(x, 7u);
        x = term(o0 + min(152u + lane, depth - 1u), 152u + lane < depth);
        sum += r152 * subgroupBroadcast(x, 0u);
        sum += r153 * subgroupBroadcast(x, 1u);
        sum += r154 * subgroupBroadcast(x, 2u);
        sum += r155 * subgroupBroadcast(x, 3u);
        sum += r156 * subgroupBroadcast(x, 4u);
        sum += r157 * subgroupBroadcast(x, 5u);
        sum += r158 * subgroupBroadcast(x, 6u);
        sum += r159 * subgroupBroadcast(x, 7u);
    }
    if HELD > 160u {
        x = term(o0 + min(160u + lane, depth - 1u), 160u + lane < depth);
        sum += r160 * subgroupBroadcast(x, 0u);
        sum += r161 * subgroupBroadcast(x, 1u);
        sum += r162 * subgroupBroadcast(x, 2u);
        sum += r163 * subgroupBroadcast(x, 3u);
        sum += r164 * subgroupBroadcast(x, 4u);
        sum += r165 * subgroupBroadcast(x, 5u);
        sum += r166 * subgroupBroadcast(x, 6u);
        sum += r167 * subgroupBroadcast(x, 7u);
        x = term(o0 + min(168u + lane, depth - 1u), 168u + lane < depth);
        sum += r168 * subgroupBroadcast(x, 0u);
        sum += r169 * subgroupBroadcast(x, 1u);
        sum += r170 * subgroupBroadcast(x, 2u);
        sum += r171 * subgroupBroadcast(x, 3u);
        sum += r172 * subgroupBroadcast(x, 4u);
        sum += r173 * subgroupBroadcast(x, 5u);
        sum += r174 * subgroupBroadcast(x, 6u);
        sum += r175 * subgroupBroadcast(x, 7u);
    }
    if HELD > 176u {
        x = term(o0 + min(176u + lane, depth - 1u), 176u + lane < depth);
        sum += r176 * subgroupBroadcast(x, 0u);
        sum += r177 * subgroupBroadcast(x, 1u);
        sum += r178 * subgroupBroadcast(x, 2u);
        sum += r179 * subgroupBroadcast(x, 3u);
        sum += r180 * subgroupBroadcast(x, 4u);
        sum += r181 * subgroupBroadcast(x, 5u);
        sum += r182 * subgroupBroadcast(x, 6u);
        sum += r183 * subgroupBroadcast(x, 7u);
        x = term(o0 + min(184u + lane, depth - 1u), 184u + lane < depth);
        sum += r184 * subgroupBroadcast(x, 0u);
        sum += r185 * subgroupBroadcast(x, 1u);
        sum += r186 * subgroupBroadcast(x, 2u);
        sum += r187 * subgroupBroadcast(x, 3u);
        sum += r188 * subgroupBroadcast(x, 4u);
        sum += r189 * subgroupBroadcast(x, 5u);
        sum += r190 * subgroupBroadcast(x, 6u);
        sum += r191 * subgroupBroadcast(x, 7u);
    }
    if HELD > 192u {
        x = term(o0 + min(192u + lane, depth - 1u), 192u + lane < depth);
        sum += r192 * subgroupBroadcast(x, 0u);
        sum += r193 * subgroupBroadcast(x, 1u);
        sum += r194 * subgroupBroadcast(x, 2u);
        sum += r195 * subgroupBroadcast(x, 3u);
        sum += r196 * subgroupBroadcast(x, 4u);
        sum += r197 * subgroupBroadcast(x, 5u);
        sum += r198 * subgroupBroadcast(x, 6u);
        sum += r199 * subgroupBroadcast(x, 7u);
        x = term(o0 + min(200u + lane, depth - 1u), 200u + lane < depth);
        sum += r200 * subgroupBroadcast(x, 0u);
        sum += r201 * subgroupBroadcast(x, 1u);
        sum += r202 * subgroupBroadcast(x, 2u);
        sum += r203 * subgroupBroadcast(x, 3u);
        sum += r204 * subgroupBroadcast(x, 4u);
        sum += r205 * subgroupBroadcast(x, 5u);
        sum += r206 * subgroupBroadcast(x, 6u);
        sum += r207 * subgroupBroadcast(x, 7u);
    }
    if HELD > 208u {
        x = term(o0 + min(208u + lane, depth - 1u), 208u + lane < depth);
        sum += r208 * subgroupBroadcast(x, 0u);
        sum += r209 * subgroupBroadcast(x, 1u);
        sum += r210 * subgroupBroadcast(x, 2u);
        sum += r211 * subgroupBroadcast(x, 3u);
        sum += r212 * subgroupBroadcast(x, 4u);
        sum += r213 * subgroupBroadcast(x, 5u);
        sum += r214 * subgroupBroadcast(x, 6u);
        sum += r215 * subgroupBroadcast(x, 7u);
        x = term(o0 + min(216u + lane, depth - 1u), 216u + lane < depth);
        sum += r216 * subgroupBroadcast(x, 0u);
        sum += r217 * subgroupBroadcast(x, 1u);
        sum += r218 * subgroupBroadcast(x, 2u);
        sum += r219 * subgroupBroadcast(x, 3u);
        sum += r220 * subgroupBroadcast(x, 4u);
        sum += r221 * subgroupBroadcast(x, 5u);
        sum += r222 * subgroupBroadcast(x, 6u);
        sum += r223 * subgroupBroadcast(x, 7u);
    }
    if HELD > 224u {
        x = term(o0 + min(224u + lane, depth - 1u), 224u + lane < depth);
        sum += r224 * subgroupBroadcast(x, 0u);
        sum += r225 * subgroupBroadcast(x, 1u);
        sum += r226 * subgroupBroadcast(x, 2u);
        sum += r227 * subgroupBroadcast(x, 3u);
        sum += r228 * subgroupBroadcast(x, 4u);
        sum += r229 * subgroupBroadcast(x, 5u);
        sum += r230 * subgroupBroadcast(x, 6u);
        sum += r231 * subgroupBroadcast(x, 7u);
        x = term(o0 + min(232u + lane, depth - 1u), 232u + lane < depth);
        sum += r232 * subgroupBroadcast(x, 0u);
        sum += r233 * subgroupBroadcast(x, 1u);
        sum += r234 * subgroupBroadcast(x, 2u);
        sum += r235 * subgroupBroadcast(x, 3u);
        sum += r236 * subgroupBroadcast(x, 4u);
        sum += r237 * subgroupBroadcast(x, 5u);
        sum += r238 * subgroupBroadcast(x, 6u);
        sum += r239 * subgroupBroadcast(x, 7u);
    }
    if HELD > 240u {
        x = term(o0 + min(240u + lane, depth - 1u), 240u + lane < depth);
        sum += r240 * subgroupBroadcast(x, 0u);
        sum += r241 * subgroupBroadcast(x, 1u);
        sum += r242 * subgroupBroadcast(x, 2u);
        sum += r243 * subgroupBroadcast(x, 3u);
        sum += r244 * subgroupBroadcast(x, 4u);
        sum += r245 * subgroupBroadcast(x, 5u);
        sum += r246 * subgroupBroadcast(x, 6u);
        sum += r247 * subgroupBroadcast(x, 7u);
        x = term(o0 + min(248u + lane, depth - 1u), 248u + lane < depth);
        sum += r248 * subgroupBroadcast(x, 0u);
        sum += r249 * subgroupBroadcast(x, 1u);
        sum += r250 * subgroupBroadcast(x, 2u);
        sum += r251 * subgroupBroadcast(x, 3u);
        sum += r252 * subgroupBroadcast(x, 4u);
        sum += r253 * subgroupBroadcast(x, 5u);
        sum += r254 * subgroupBroadcast(x, 6u);
        sum += r255 * subgroupBroadcast(x, 7u);
    }
    s0 = sum;
}
