// The product of `products_plain.wgsl` for one row, with the weights of the invocation's four columns held in registers over all
// steps: HELD of them, HELD >= depth. Named one by one, as no driver is sure to keep an indexed array in registers.

var<private> s0: vec4<f32>;
var<private> s1: vec4<f32>;
var<private> s2: vec4<f32>;
var<private> s3: vec4<f32>;
var<private> s4: vec4<f32>;
var<private> s5: vec4<f32>;
var<private> s6: vec4<f32>;
var<private> s7: vec4<f32>;
var<private> r0: vec4<f32>;
var<private> r1: vec4<f32>;
var<private> r2: vec4<f32>;
var<private> r3: vec4<f32>;
var<private> r4: vec4<f32>;
var<private> r5: vec4<f32>;
var<private> r6: vec4<f32>;
var<private> r7: vec4<f32>;
var<private> r8: vec4<f32>;
var<private> r9: vec4<f32>;
var<private> r10: vec4<f32>;
var<private> r11: vec4<f32>;
var<private> r12: vec4<f32>;
var<private> r13: vec4<f32>;
var<private> r14: vec4<f32>;
var<private> r15: vec4<f32>;
var<private> r16: vec4<f32>;
var<private> r17: vec4<f32>;
var<private> r18: vec4<f32>;
var<private> r19: vec4<f32>;
var<private> r20: vec4<f32>;
var<private> r21: vec4<f32>;
var<private> r22: vec4<f32>;
var<private> r23: vec4<f32>;
var<private> r24: vec4<f32>;
var<private> r25: vec4<f32>;
var<private> r26: vec4<f32>;
var<private> r27: vec4<f32>;
var<private> r28: vec4<f32>;
var<private> r29: vec4<f32>;
var<private> r30: vec4<f32>;
var<private> r31: vec4<f32>;
var<private> r32: vec4<f32>;
var<private> r33: vec4<f32>;
var<private> r34: vec4<f32>;
var<private> r35: vec4<f32>;
var<private> r36: vec4<f32>;
var<private> r37: vec4<f32>;
var<private> r38: vec4<f32>;
var<private> r39: vec4<f32>;
var<private> r40: vec4<f32>;
var<private> r41: vec4<f32>;
var<private> r42: vec4<f32>;
var<private> r43: vec4<f32>;
var<private> r44: vec4<f32>;
var<private> r45: vec4<f32>;
var<private> r46: vec4<f32>;
var<private> r47: vec4<f32>;
var<private> r48: vec4<f32>;
var<private> r49: vec4<f32>;
var<private> r50: vec4<f32>;
var<private> r51: vec4<f32>;
var<private> r52: vec4<f32>;
var<private> r53: vec4<f32>;
var<private> r54: vec4<f32>;
var<private> r55: vec4<f32>;
var<private> r56: vec4<f32>;
var<private> r57: vec4<f32>;
var<private> r58: vec4<f32>;
var<private> r59: vec4<f32>;
var<private> r60: vec4<f32>;
var<private> r61: vec4<f32>;
var<private> r62: vec4<f32>;
var<private> r63: vec4<f32>;
var<private> r64: vec4<f32>;
var<private> r65: vec4<f32>;
var<private> r66: vec4<f32>;
var<private> r67: vec4<f32>;
var<private> r68: vec4<f32>;
var<private> r69: vec4<f32>;
var<private> r70: vec4<f32>;
var<private> r71: vec4<f32>;
var<private> r72: vec4<f32>;
var<private> r73: vec4<f32>;
var<private> r74: vec4<f32>;
var<private> r75: vec4<f32>;
var<private> r76: vec4<f32>;
var<private> r77: vec4<f32>;
var<private> r78: vec4<f32>;
var<private> r79: vec4<f32>;
var<private> r80: vec4<f32>;
var<private> r81: vec4<f32>;
var<private> r82: vec4<f32>;
var<private> r83: vec4<f32>;
var<private> r84: vec4<f32>;
var<private> r85: vec4<f32>;
var<private> r86: vec4<f32>;
var<private> r87: vec4<f32>;
var<private> r88: vec4<f32>;
var<private> r89: vec4<f32>;
var<private> r90: vec4<f32>;
var<private> r91: vec4<f32>;
var<private> r92: vec4<f32>;
var<private> r93: vec4<f32>;
var<private> r94: vec4<f32>;
var<private> r95: vec4<f32>;
var<private> r96: vec4<f32>;
var<private> r97: vec4<f32>;
var<private> r98: vec4<f32>;
var<private> r99: vec4<f32>;
var<private> r100: vec4<f32>;
var<private> r101: vec4<f32>;
var<private> r102: vec4<f32>;
var<private> r103: vec4<f32>;
var<private> r104: vec4<f32>;
var<private> r105: vec4<f32>;
var<private> r106: vec4<f32>;
var<private> r107: vec4<f32>;
var<private> r108: vec4<f32>;
var<private> r109: vec4<f32>;
var<private> r110: vec4<f32>;
var<private> r111: vec4<f32>;
var<private> r112: vec4<f32>;
var<private> r113: vec4<f32>;
var<private> r114: vec4<f32>;
var<private> r115: vec4<f32>;
var<private> r116: vec4<f32>;
var<private> r117: vec4<f32>;
var<private> r118: vec4<f32>;
var<private> r119: vec4<f32>;
var<private> r120: vec4<f32>;
var<private> r121: vec4<f32>;
var<private> r122: vec4<f32>;
var<private> r123: vec4<f32>;
var<private> r124: vec4<f32>;
var<private> r125: vec4<f32>;
var<private> r126: vec4<f32>;
var<private> r127: vec4<f32>;
var<private> r128: vec4<f32>;
var<private> r129: vec4<f32>;
var<private> r130: vec4<f32>;
var<private> r131: vec4<f32>;
var<private> r132: vec4<f32>;
var<private> r133: vec4<f32>;
var<private> r134: vec4<f32>;
var<private> r135: vec4<f32>;
var<private> r136: vec4<f32>;
var<private> r137: vec4<f32>;
var<private> r138: vec4<f32>;
var<private> r139: vec4<f32>;
var<private> r140: vec4<f32>;
var<private> r141: vec4<f32>;
var<private> r142: vec4<f32>;
var<private> r143: vec4<f32>;
var<private> r144: vec4<f32>;
var<private> r145: vec4<f32>;
var<private> r146: vec4<f32>;
var<private> r147: vec4<f32>;
var<private> r148: vec4<f32>;
var<private> r149: vec4<f32>;
var<private> r150: vec4<f32>;
var<private> r151: vec4<f32>;
var<private> r152: vec4<f32>;
var<private> r153: vec4<f32>;
var<private> r154: vec4<f32>;
var<private> r155: vec4<f32>;
var<private> r156: vec4<f32>;
var<private> r157: vec4<f32>;
var<private> r158: vec4<f32>;
var<private> r159: vec4<f32>;
var<private> r160: vec4<f32>;
var<private> r161: vec4<f32>;
var<private> r162: vec4<f32>;
var<private> r163: vec4<f32>;
var<private> r164: vec4<f32>;
var<private> r165: vec4<f32>;
var<private> r166: vec4<f32>;
var<private> r167: vec4<f32>;
var<private> r168: vec4<f32>;
var<private> r169: vec4<f32>;
var<private> r170: vec4<f32>;
var<private> r171: vec4<f32>;
var<private> r172: vec4<f32>;
var<private> r173: vec4<f32>;
var<private> r174: vec4<f32>;
var<private> r175: vec4<f32>;
var<private> r176: vec4<f32>;
var<private> r177: vec4<f32>;
var<private> r178: vec4<f32>;
var<private> r179: vec4<f32>;
var<private> r180: vec4<f32>;
var<private> r181: vec4<f32>;
var<private> r182: vec4<f32>;
var<private> r183: vec4<f32>;
var<private> r184: vec4<f32>;
var<private> r185: vec4<f32>;
var<private> r186: vec4<f32>;
var<private> r187: vec4<f32>;
var<private> r188: vec4<f32>;
var<private> r189: vec4<f32>;
var<private> r190: vec4<f32>;
var<private> r191: vec4<f32>;
var<private> r192: vec4<f32>;
var<private> r193: vec4<f32>;
var<private> r194: vec4<f32>;
var<private> r195: vec4<f32>;
var<private> r196: vec4<f32>;
var<private> r197: vec4<f32>;
var<private> r198: vec4<f32>;
var<private> r199: vec4<f32>;
var<private> r200: vec4<f32>;
var<private> r201: vec4<f32>;
var<private> r202: vec4<f32>;
var<private> r203: vec4<f32>;
var<private> r204: vec4<f32>;
var<private> r205: vec4<f32>;
var<private> r206: vec4<f32>;
var<private> r207: vec4<f32>;
var<private> r208: vec4<f32>;
var<private> r209: vec4<f32>;
var<private> r210: vec4<f32>;
var<private> r211: vec4<f32>;
var<private> r212: vec4<f32>;
var<private> r213: vec4<f32>;
var<private> r214: vec4<f32>;
var<private> r215: vec4<f32>;
var<private> r216: vec4<f32>;
var<private> r217: vec4<f32>;
var<private> r218: vec4<f32>;
var<private> r219: vec4<f32>;
var<private> r220: vec4<f32>;
var<private> r221: vec4<f32>;
var<private> r222: vec4<f32>;
var<private> r223: vec4<f32>;
var<private> r224: vec4<f32>;
var<private> r225: vec4<f32>;
var<private> r226: vec4<f32>;
var<private> r227: vec4<f32>;
var<private> r228: vec4<f32>;
var<private> r229: vec4<f32>;
var<private> r230: vec4<f32>;
var<private> r231: vec4<f32>;
var<private> r232: vec4<f32>;
var<private> r233: vec4<f32>;
var<private> r234: vec4<f32>;
var<private> r235: vec4<f32>;
var<private> r236: vec4<f32>;
var<private> r237: vec4<f32>;
var<private> r238: vec4<f32>;
var<private> r239: vec4<f32>;
var<private> r240: vec4<f32>;
var<private> r241: vec4<f32>;
var<private> r242: vec4<f32>;
var<private> r243: vec4<f32>;
var<private> r244: vec4<f32>;
var<private> r245: vec4<f32>;
var<private> r246: vec4<f32>;
var<private> r247: vec4<f32>;
var<private> r248: vec4<f32>;
var<private> r249: vec4<f32>;
var<private> r250: vec4<f32>;
var<private> r251: vec4<f32>;
var<private> r252: vec4<f32>;
var<private> r253: vec4<f32>;
var<private> r254: vec4<f32>;
var<private> r255: vec4<f32>;

fn clear_sums() {
    s0 = vec4<f32>();
    s1 = vec4<f32>();
    s2 = vec4<f32>();
    s3 = vec4<f32>();
    s4 = vec4<f32>();
    s5 = vec4<f32>();
    s6 = vec4<f32>();
    s7 = vec4<f32>();
}

// A weight; past the last row any finite one, as x is zero there.
fn held(first: u32, stride: u32, k: u32) -> vec4<f32> {
    return weight(first + min(k, weight_rows() - 1u) * stride);
}

fn prepare(first: u32, stride: u32) {
    r0 = held(first, stride, 0u);
    r1 = held(first, stride, 1u);
    r2 = held(first, stride, 2u);
    r3 = held(first, stride, 3u);
    r4 = held(first, stride, 4u);
    r5 = held(first, stride, 5u);
    r6 = held(first, stride, 6u);
    r7 = held(first, stride, 7u);
    r8 = held(first, stride, 8u);
    r9 = held(first, stride, 9u);
    r10 = held(first, stride, 10u);
    r11 = held(first, stride, 11u);
    r12 = held(first, stride, 12u);
    r13 = held(first, stride, 13u);
    r14 = held(first, stride, 14u);
    r15 = held(first, stride, 15u);
    if HELD > 16u {
        r16 = held(first, stride, 16u);
        r17 = held(first, stride, 17u);
        r18 = held(first, stride, 18u);
        r19 = held(first, stride, 19u);
        r20 = held(first, stride, 20u);
        r21 = held(first, stride, 21u);
        r22 = held(first, stride, 22u);
        r23 = held(first, stride, 23u);
        r24 = held(first, stride, 24u);
        r25 = held(first, stride, 25u);
        r26 = held(first, stride, 26u);
        r27 = held(first, stride, 27u);
        r28 = held(first, stride, 28u);
        r29 = held(first, stride, 29u);
        r30 = held(first, stride, 30u);
        r31 = held(first, stride, 31u);
    }
    if HELD > 32u {
        r32 = held(first, stride, 32u);
        r33 = held(first, stride, 33u);
        r34 = held(first, stride, 34u);
        r35 = held(first, stride, 35u);
        r36 = held(first, stride, 36u);
        r37 = held(first, stride, 37u);
        r38 = held(first, stride, 38u);
        r39 = held(first, stride, 39u);
        r40 = held(first, stride, 40u);
        r41 = held(first, stride, 41u);
        r42 = held(first, stride, 42u);
        r43 = held(first, stride, 43u);
        r44 = held(first, stride, 44u);
        r45 = held(first, stride, 45u);
        r46 = held(first, stride, 46u);
        r47 = held(first, stride, 47u);
    }
    if HELD > 48u {
        r48 = held(first, stride, 48u);
        r49 = held(first, stride, 49u);
        r50 = held(first, stride, 50u);
        r51 = held(first, stride, 51u);
        r52 = held(first, stride, 52u);
        r53 = held(first, stride, 53u);
        r54 = held(first, stride, 54u);
        r55 = held(first, stride, 55u);
        r56 = held(first, stride, 56u);
        r57 = held(first, stride, 57u);
        r58 = held(first, stride, 58u);
        r59 = held(first, stride, 59u);
        r60 = held(first, stride, 60u);
        r61 = held(first, stride, 61u);
        r62 = held(first, stride, 62u);
        r63 = held(first, stride, 63u);
    }
    if HELD > 64u {
        r64 = held(first, stride, 64u);
        r65 = held(first, stride, 65u);
        r66 = held(first, stride, 66u);
        r67 = held(first, stride, 67u);
        r68 = held(first, stride, 68u);
        r69 = held(first, stride, 69u);
        r70 = held(first, stride, 70u);
        r71 = held(first, stride, 71u);
        r72 = held(first, stride, 72u);
        r73 = held(first, stride, 73u);
        r74 = held(first, stride, 74u);
        r75 = held(first, stride, 75u);
        r76 = held(first, stride, 76u);
        r77 = held(first, stride, 77u);
        r78 = held(first, stride, 78u);
        r79 = held(first, stride, 79u);
    }
    if HELD > 80u {
        r80 = held(first, stride, 80u);
        r81 = held(first, stride, 81u);
        r82 = held(first, stride, 82u);
        r83 = held(first, stride, 83u);
        r84 = held(first, stride, 84u);
        r85 = held(first, stride, 85u);
        r86 = held(first, stride, 86u);
        r87 = held(first, stride, 87u);
        r88 = held(first, stride, 88u);
        r89 = held(first, stride, 89u);
        r90 = held(first, stride, 90u);
        r91 = held(first, stride, 91u);
        r92 = held(first, stride, 92u);
        r93 = held(first, stride, 93u);
        r94 = held(first, stride, 94u);
        r95 = held(first, stride, 95u);
    }
    if HELD > 96u {
        r96 = held(first, stride, 96u);
        r97 = held(first, stride, 97u);
        r98 = held(first, stride, 98u);
        r99 = held(first, stride, 99u);
        r100 = held(first, stride, 100u);
        r101 = held(first, stride, 101u);
        r102 = held(first, stride, 102u);
        r103 = held(first, stride, 103u);
        r104 = held(first, stride, 104u);
        r105 = held(first, stride, 105u);
        r106 = held(first, stride, 106u);
        r107 = held(first, stride, 107u);
        r108 = held(first, stride, 108u);
        r109 = held(first, stride, 109u);
        r110 = held(first, stride, 110u);
        r111 = held(first, stride, 111u);
    }
    if HELD > 112u {
        r112 = held(first, stride, 112u);
        r113 = held(first, stride, 113u);
        r114 = held(first, stride, 114u);
        r115 = held(first, stride, 115u);
        r116 = held(first, stride, 116u);
        r117 = held(first, stride, 117u);
        r118 = held(first, stride, 118u);
        r119 = held(first, stride, 119u);
        r120 = held(first, stride, 120u);
        r121 = held(first, stride, 121u);
        r122 = held(first, stride, 122u);
        r123 = held(first, stride, 123u);
        r124 = held(first, stride, 124u);
        r125 = held(first, stride, 125u);
        r126 = held(first, stride, 126u);
        r127 = held(first, stride, 127u);
    }
    if HELD > 128u {
        r128 = held(first, stride, 128u);
        r129 = held(first, stride, 129u);
        r130 = held(first, stride, 130u);
        r131 = held(first, stride, 131u);
        r132 = held(first, stride, 132u);
        r133 = held(first, stride, 133u);
        r134 = held(first, stride, 134u);
        r135 = held(first, stride, 135u);
        r136 = held(first, stride, 136u);
        r137 = held(first, stride, 137u);
        r138 = held(first, stride, 138u);
        r139 = held(first, stride, 139u);
        r140 = held(first, stride, 140u);
        r141 = held(first, stride, 141u);
        r142 = held(first, stride, 142u);
        r143 = held(first, stride, 143u);
    }
    if HELD > 144u {
        r144 = held(first, stride, 144u);
        r145 = held(first, stride, 145u);
        r146 = held(first, stride, 146u);
        r147 = held(first, stride, 147u);
        r148 = held(first, stride, 148u);
        r149 = held(first, stride, 149u);
        r150 = held(first, stride, 150u);
        r151 = held(first, stride, 151u);
        r152 = held(first, stride, 152u);
        r153 = held(first, stride, 153u);
        r154 = held(first, stride, 154u);
        r155 = held(first, stride, 155u);
        r156 = held(first, stride, 156u);
        r157 = held(first, stride, 157u);
        r158 = held(first, stride, 158u);
        r159 = held(first, stride, 159u);
    }
    if HELD > 160u {
        r160 = held(first, stride, 160u);
        r161 = held(first, stride, 161u);
        r162 = held(first, stride, 162u);
        r163 = held(first, stride, 163u);
        r164 = held(first, stride, 164u);
        r165 = held(first, stride, 165u);
        r166 = held(first, stride, 166u);
        r167 = held(first, stride, 167u);
        r168 = held(first, stride, 168u);
        r169 = held(first, stride, 169u);
        r170 = held(first, stride, 170u);
        r171 = held(first, stride, 171u);
        r172 = held(first, stride, 172u);
        r173 = held(first, stride, 173u);
        r174 = held(first, stride, 174u);
        r175 = held(first, stride, 175u);
    }
    if HELD > 176u {
        r176 = held(first, stride, 176u);
        r177 = held(first, stride, 177u);
        r178 = held(first, stride, 178u);
        r179 = held(first, stride, 179u);
        r180 = held(first, stride, 180u);
        r181 = held(first, stride, 181u);
        r182 = held(first, stride, 182u);
        r183 = held(first, stride, 183u);
        r184 = held(first, stride, 184u);
        r185 = held(first, stride, 185u);
        r186 = held(first, stride, 186u);
        r187 = held(first, stride, 187u);
        r188 = held(first, stride, 188u);
        r189 = held(first, stride, 189u);
        r190 = held(first, stride, 190u);
        r191 = held(first, stride, 191u);
    }
    if HELD > 192u {
        r192 = held(first, stride, 192u);
        r193 = held(first, stride, 193u);
        r194 = held(first, stride, 194u);
        r195 = held(first, stride, 195u);
        r196 = held(first, stride, 196u);
        r197 = held(first, stride, 197u);
        r198 = held(first, stride, 198u);
        r199 = held(first, stride, 199u);
        r200 = held(first, stride, 200u);
        r201 = held(first, stride, 201u);
        r202 = held(first, stride, 202u);
        r203 = held(first, stride, 203u);
        r204 = held(first, stride, 204u);
        r205 = held(first, stride, 205u);
        r206 = held(first, stride, 206u);
        r207 = held(first, stride, 207u);
    }
    if HELD > 208u {
        r208 = held(first, stride, 208u);
        r209 = held(first, stride, 209u);
        r210 = held(first, stride, 210u);
        r211 = held(first, stride, 211u);
        r212 = held(first, stride, 212u);
        r213 = held(first, stride, 213u);
        r214 = held(first, stride, 214u);
        r215 = held(first, stride, 215u);
        r216 = held(first, stride, 216u);
        r217 = held(first, stride, 217u);
        r218 = held(first, stride, 218u);
        r219 = held(first, stride, 219u);
        r220 = held(first, stride, 220u);
        r221 = held(first, stride, 221u);
        r222 = held(first, stride, 222u);
        r223 = held(first, stride, 223u);
    }
    if HELD > 224u {
        r224 = held(first, stride, 224u);
        r225 = held(first, stride, 225u);
        r226 = held(first, stride, 226u);
        r227 = held(first, stride, 227u);
        r228 = held(first, stride, 228u);
        r229 = held(first, stride, 229u);
        r230 = held(first, stride, 230u);
        r231 = held(first, stride, 231u);
        r232 = held(first, stride, 232u);
        r233 = held(first, stride, 233u);
        r234 = held(first, stride, 234u);
        r235 = held(first, stride, 235u);
        r236 = held(first, stride, 236u);
        r237 = held(first, stride, 237u);
        r238 = held(first, stride, 238u);
        r239 = held(first, stride, 239u);
    }
    if HELD > 240u {
        r240 = held(first, stride, 240u);
        r241 = held(first, stride, 241u);
        r242 = held(first, stride, 242u);
        r243 = held(first, stride, 243u);
        r244 = held(first, stride, 244u);
        r245 = held(first, stride, 245u);
        r246 = held(first, stride, 246u);
        r247 = held(first, stride, 247u);
        r248 = held(first, stride, 248u);
        r249 = held(first, stride, 249u);
        r250 = held(first, stride, 250u);
        r251 = held(first, stride, 251u);
        r252 = held(first, stride, 252u);
        r253 = held(first, stride, 253u);
        r254 = held(first, stride, 254u);
        r255 = held(first, stride, 255u);
    }
}

// Four terms of x from word `at` on; none when x ends before (h is whole vectors, so four at a time).
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
