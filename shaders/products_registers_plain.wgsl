// The product of `products_plain.wgsl` for one row, with the weights in the registers of
// `registers.wgsl`: HELD of them, HELD >= depth.

// Four terms of x from word `at` on; none when x ends before (h is whole vectors, so four at a
// time).
fn four(w0: vec4<f32>, w1: vec4<f32>, w2: vec4<f32>, w3: vec4<f32>, at: u32, left: bool) -> vec4<f32> {
    let x = select(vec4<f32>(), x_quad(at, 4u), left);
    return w0 * x.x + w1 * x.y + w2 * x.z + w3 * x.w;
}

fn products(first: u32, stride: u32, depth: u32, lane: u32, o0: u32, o1: u32, o2: u32, o3: u32, o4: u32, o5: u32, o6: u32, o7: u32) {
    var sum = vec4<f32>();
    sum += four(r0, r1, r2, r3, o0 + min(0u, depth - 4u), 0u < depth);
    sum += four(r4, r5, r6, r7, o0 + min(4u, depth - 4u), 4u < depth);
    sum += four(r8, r9, r10, r11, o0 + min(8u, depth - 4u), 8u < depth);
    sum += four(r12, r13, r14, r15, o0 + min(12u, depth - 4u), 12u < depth);
    if HELD > 16u {
        sum += four(r16, r17, r18, r19, o0 + min(16u, depth - 4u), 16u < depth);
        sum += four(r20, r21, r22, r23, o0 + min(20u, depth - 4u), 20u < depth);
        sum += four(r24, r25, r26, r27, o0 + min(24u, depth - 4u), 24u < depth);
        sum += four(r28, r29, r30, r31, o0 + min(28u, depth - 4u), 28u < depth);
    }
    if HELD > 32u {
        sum += four(r32, r33, r34, r35, o0 + min(32u, depth - 4u), 32u < depth);
        sum += four(r36, r37, r38, r39, o0 + min(36u, depth - 4u), 36u < depth);
        sum += four(r40, r41, r42, r43, o0 + min(40u, depth - 4u), 40u < depth);
        sum += four(r44, r45, r46, r47, o0 + min(44u, depth - 4u), 44u < depth);
    }
    if HELD > 48u {
        sum += four(r48, r49, r50, r51, o0 + min(48u, depth - 4u), 48u < depth);
        sum += four(r52, r53, r54, r55, o0 + min(52u, depth - 4u), 52u < depth);
        sum += four(r56, r57, r58, r59, o0 + min(56u, depth - 4u), 56u < depth);
        sum += four(r60, r61, r62, r63, o0 + min(60u, depth - 4u), 60u < depth);
    }
    if HELD > 64u {
        sum += four(r64, r65, r66, r67, o0 + min(64u, depth - 4u), 64u < depth);
        sum += four(r68, r69, r70, r71, o0 + min(68u, depth - 4u), 68u < depth);
        sum += four(r72, r73, r74, r75, o0 + min(72u, depth - 4u), 72u < depth);
        sum += four(r76, r77, r78, r79, o0 + min(76u, depth - 4u), 76u < depth);
    }
    if HELD > 80u {
        sum += four(r80, r81, r82, r83, o0 + min(80u, depth - 4u), 80u < depth);
        sum += four(r84, r85, r86, r87, o0 + min(84u, depth - 4u), 84u < depth);
        sum += four(r88, r89, r90, r91, o0 + min(88u, depth - 4u), 88u < depth);
        sum += four(r92, r93, r94, r95, o0 + min(92u, depth - 4u), 92u < depth);
    }
    if HELD > 96u {
        sum += four(r96, r97, r98, r99, o0 + min(96u, depth - 4u), 96u < depth);
        sum += four(r100, r101, r102, r103, o0 + min(100u, depth - 4u), 100u < depth);
        sum += four(r104, r105, r106, r107, o0 + min(104u, depth - 4u), 104u < depth);
        sum += four(r108, r109, r110, r111, o0 + min(108u, depth - 4u), 108u < depth);
    }
    if HELD > 112u {
        sum += four(r112, r113, r114, r115, o0 + min(112u, depth - 4u), 112u < depth);
        sum += four(r116, r117, r118, r119, o0 + min(116u, depth - 4u), 116u < depth);
        sum += four(r120, r121, r122, r123, o0 + min(120u, depth - 4u), 120u < depth);
        sum += four(r124, r125, r126, r127, o0 + min(124u, depth - 4u), 124u < depth);
    }
    if HELD > 128u {
        sum += four(r128, r129, r130, r131, o0 + min(128u, depth - 4u), 128u < depth);
        sum += four(r132, r133, r134, r135, o0 + min(132u, depth - 4u), 132u < depth);
        sum += four(r136, r137, r138, r139, o0 + min(136u, depth - 4u), 136u < depth);
        sum += four(r140, r141, r142, r143, o0 + min(140u, depth - 4u), 140u < depth);
    }
    if HELD > 144u {
        sum += four(r144, r145, r146, r147, o0 + min(144u, depth - 4u), 144u < depth);
        sum += four(r148, r149, r150, r151, o0 + min(148u, depth - 4u), 148u < depth);
        sum += four(r152, r153, r154, r155, o0 + min(152u, depth - 4u), 152u < depth);
        sum += four(r156, r157, r158, r159, o0 + min(156u, depth - 4u), 156u < depth);
    }
    if HELD > 160u {
        sum += four(r160, r161, r162, r163, o0 + min(160u, depth - 4u), 160u < depth);
        sum += four(r164, r165, r166, r167, o0 + min(164u, depth - 4u), 164u < depth);
        sum += four(r168, r169, r170, r171, o0 + min(168u, depth - 4u), 168u < depth);
        sum += four(r172, r173, r174, r175, o0 + min(172u, depth - 4u), 172u < depth);
    }
    if HELD > 176u {
        sum += four(r176, r177, r178, r179, o0 + min(176u, depth - 4u), 176u < depth);
        sum += four(r180, r181, r182, r183, o0 + min(180u, depth - 4u), 180u < depth);
        sum += four(r184, r185, r186, r187, o0 + min(184u, depth - 4u), 184u < depth);
        sum += four(r188, r189, r190, r191, o0 + min(188u, depth - 4u), 188u < depth);
    }
    if HELD > 192u {
        sum += four(r192, r193, r194, r195, o0 + min(192u, depth - 4u), 192u < depth);
        sum += four(r196, r197, r198, r199, o0 + min(196u, depth - 4u), 196u < depth);
        sum += four(r200, r201, r202, r203, o0 + min(200u, depth - 4u), 200u < depth);
        sum += four(r204, r205, r206, r207, o0 + min(204u, depth - 4u), 204u < depth);
    }
    if HELD > 208u {
        sum += four(r208, r209, r210, r211, o0 + min(208u, depth - 4u), 208u < depth);
        sum += four(r212, r213, r214, r215, o0 + min(212u, depth - 4u), 212u < depth);
        sum += four(r216, r217, r218, r219, o0 + min(216u, depth - 4u), 216u < depth);
        sum += four(r220, r221, r222, r223, o0 + min(220u, depth - 4u), 220u < depth);
    }
    if HELD > 224u {
        sum += four(r224, r225, r226, r227, o0 + min(224u, depth - 4u), 224u < depth);
        sum += four(r228, r229, r230, r231, o0 + min(228u, depth - 4u), 228u < depth);
        sum += four(r232, r233, r234, r235, o0 + min(232u, depth - 4u), 232u < depth);
        sum += four(r236, r237, r238, r239, o0 + min(236u, depth - 4u), 236u < depth);
    }
    if HELD > 240u {
        sum += four(r240, r241, r242, r243, o0 + min(240u, depth - 4u), 240u < depth);
        sum += four(r244, r245, r246, r247, o0 + min(244u, depth - 4u), 244u < depth);
        sum += four(r248, r249, r250, r251, o0 + min(248u, depth - 4u), 248u < depth);
        sum += four(r252, r253, r254, r255, o0 + min(252u, depth - 4u), 252u < depth);
    }
    s0 = sum;
}
